"""`train --search`: prints the best settings, ready for `--config`, the trials as comments."""

from __future__ import annotations

import sys
from functools import partial
from io import StringIO

from rich.console import Console
from rich.table import Table

from recsys.settings import Settings
from train_app.command_outcome import Outcome
from train_app.examples.lake_examples import split_by_time
from train_app.learning.train_joint import train_models
from train_app.progress import open_progress
from train_app.searching.search_run import Found, SearchRequest, SearchTools, run_search
from train_app.searching.search_space import as_toml
from train_app.training_commands import limit_threads, read_lake

_SHOWN = 10
_TEXT_WIDTH = 120


def search_settings(
    settings: Settings, *, n_trials: int, minutes: float, until_ms: int | None
) -> Outcome:
    """Search, and say what was found."""
    limit_threads(settings)
    with open_progress(sys.stderr) as progress:
        interactions = read_lake(settings, progress, progress, until_ms)
        tools = SearchTools(
            cutoff_ms=partial(split_by_time, holdout_share=settings.train.holdout_share),
            train_models=train_models,
            report=progress,
            say=progress.say,
        )
        found = run_search(interactions, SearchRequest(n_trials, minutes), settings, tools)
    return Outcome(found.as_dict(), found_text(found))


def found_text(found: Found) -> str:
    """A file of the best settings, after a table of the best trials in comment lines."""
    if found.best is None:
        return "# no trial came to its end; give it more --minutes"
    title = f"page NDCG@10 on {found.n_queries:,} engagements of the validation slice"
    table = Table(title=title, title_justify="left")
    for column in ("trial", "NDCG@10", "settings"):
        table.add_column(column, justify="left" if column == "settings" else "right")
    ended = sorted(found.trials, key=lambda one: -1.0 if one.score is None else one.score)
    for tried in reversed(ended[-_SHOWN:]):
        score = "given up" if tried.score is None else f"{tried.score:.4f}"
        words = [f"{name.split('.', 1)[1]} {_short(value)}" for name, value in tried.values.items()]
        table.add_row(str(tried.number), score, ", ".join(words))
    buffer = StringIO()
    Console(file=buffer, width=_TEXT_WIDTH).print(table)
    lines = [f"# {line}".rstrip() for line in buffer.getvalue().splitlines()]
    first = next((one for one in found.trials if one.is_present), None)
    if first is not None and first.score is not None:
        gain = (found.best.score or 0.0) - first.score
        lines.append(
            f"# {gain:+.4f} over the present settings (trial {first.number}); keep it as a file:"
        )
    return "\n".join([*lines, as_toml(found.best.values)])


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
