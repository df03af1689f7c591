"""A search: trials that train on the older part of the training data and rank its newest part.

The held-out part of the gate is never looked at. Trials are kept in `data_dir/search.sqlite`,
whose only writer this is, so that a search that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.errors import DataError
from recsys.settings import Settings
from train_app.evaluation.evaluate import rank
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.evaluation_run import Report, TrainModels
from train_app.evaluation.evaluation_table import NDCG
from train_app.evaluation.rankers import PAGE, BundleParts, BundleRanker
from train_app.examples.interactions import Interactions
from train_app.learning.divergence import TrainingDiverged
from train_app.learning.towers.adapted_settings import adapted
from train_app.publish import assemble
from train_app.run_directory import one_at_a_time
from train_app.searching.search_space import SPACE, Value, present_values, proposed, shortened

if TYPE_CHECKING:
    import optuna

RUNGS = (0.25, 1.0)
"""Shares of the schedule: what looks worse than the median after the first is given up."""
MAX_QUERIES = 3_000
_LEAST_TRIALS = 6
"""A trial may take this part of the minutes, so that at least so many come to their end."""
_LABEL = "searching"


@dataclass(frozen=True)
class SearchRequest:
    """How long to search; trials of an earlier search of the same data and settings count."""

    n_trials: int = 20
    minutes: float = 60.0


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial."""

    number: int
    values: dict[str, Value]
    score: float | None
    """Mean NDCG@10 of the page on the validation slice; `None` where it was given up."""
    is_present: bool = False
    """Whether these are the settings the search was started with."""


@dataclass(frozen=True)
class Found:
    """All trials, and what the present settings reached."""

    trials: tuple[Tried, ...]
    n_queries: int

    @property
    def best(self) -> Tried | None:
        """The best trial that came to its end, the first of equals."""
        ended = [tried for tried in self.trials if tried.score is not None]
        return max(ended, key=lambda tried: (tried.score or 0.0, -tried.number), default=None)

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        best = self.best
        return {
            "metric": "page ndcg@10 on the validation slice",
            "n_queries": self.n_queries,
            "best": None if best is None else {"score": best.score, "settings": best.values},
            "trials": [
                {"number": one.number, "score": one.score, "settings": one.values}
                for one in self.trials
            ],
        }


@dataclass(frozen=True)
class SearchTools:
    """The parts of a search that are passed in."""

    cutoff_ms: Callable[[Interactions], int]
    train_models: TrainModels
    report: Report
    say: Callable[[str], None]
    now_s: Callable[[], float] = time.monotonic


def run_search(
    interactions: Interactions, request: SearchRequest, settings: Settings, tools: SearchTools
) -> Found:
    """Try settings until the trials or the minutes end.

    Raises:
        DataError: a training runs on this data directory, or there is nothing to validate on.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    older = interactions.select(interactions.timestamps_ms < tools.cutoff_ms(interactions))
    settings = adapted(settings, older)
    queries = validation_slice(older, settings, tools.cutoff_ms(older))
    with one_at_a_time(settings.data_dir / "train.lock", "a training"):
        study = _open_study(older, settings)
        n_begun = len(_finished(study))
        began_s = tools.now_s()
        objective = _Objective(queries, settings, request, tools)

        def told(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            spent = (tools.now_s() - began_s) / (60 * request.minutes)
            tools.report(_LABEL, min(1.0, max(len(_finished(study)) / request.n_trials, spent)))

        left = max(request.n_trials - n_begun, 0)
        if n_begun:
            tools.say(f"{n_begun} trials of an earlier search count; {left} to go")
        tools.report(_LABEL, 0.0)
        study.optimize(objective, n_trials=left, timeout=60 * request.minutes, callbacks=[told])
        present = present_values(settings)
        trials = tuple(_tried(one, present) for one in _finished(study))
    return Found(trials, len(queries))


def validation_slice(older: Interactions, settings: Settings, cutoff_ms: int) -> HeldOut:
    """The newest engagements of the training part: what trials are judged on.

    Raises:
        DataError: there are none.
    """
    negative_kinds, seed = settings.events.negative_kinds, settings.train.seed
    queries = hold_out(
        "time", older, cutoff_ms=cutoff_ms, negative_kinds=negative_kinds, seed=seed
    ).sample(MAX_QUERIES, seed)
    if not len(queries.train):
        raise DataError(
            f"{len(older)} engagements before the held-out part leave none to learn from beside a "
            "validation slice; import more history"
        )
    return queries


class _Objective:
    """Trains as a trial proposes and measures the page."""

    def __init__(
        self, queries: HeldOut, settings: Settings, request: SearchRequest, tools: SearchTools
    ) -> None:
        self._queries = queries
        self._settings = settings
        self._most_minutes = request.minutes / _LEAST_TRIALS / sum(RUNGS) / 2
        self._tools = tools

    def __call__(self, trial: optuna.Trial) -> float:
        import optuna

        settings = proposed(trial, self._settings)
        score = 0.0
        for rung, share in enumerate(RUNGS):
            try:
                score = self._score(shortened(settings, share, self._most_minutes))
            except TrainingDiverged as error:
                raise optuna.TrialPruned(str(error)) from error
            trial.report(score, rung)
            if rung + 1 < len(RUNGS) and trial.should_prune():
                raise optuna.TrialPruned
        self._tools.say(f"trial {trial.number}: {score:.4f}")
        return score

    def _score(self, settings: Settings) -> float:
        path = settings.data_dir / "searching"
        shutil.rmtree(path, ignore_errors=True)
        train, quiet = self._queries.train, _quiet
        try:
            self._tools.train_models(
                train, settings, path / "models", warm_start=None, report=quiet
            )
            draft = assemble(path / "models", path / "bundle", train, settings, quiet)
            ranked = rank(self._queries, [self._ranker(path / "bundle", draft, settings)], quiet)
        finally:
            shutil.rmtree(path, ignore_errors=True)
        return float(np.mean(ranked[PAGE].per_query[NDCG]))

    def _ranker(self, bundle: Path, draft: Any, settings: Settings) -> BundleRanker:
        parts = BundleParts.load(bundle, draft, settings)
        return BundleRanker(parts, self._queries.interactions, settings.retrieval.n_candidates)


def _open_study(older: Interactions, settings: Settings) -> optuna.Study:
    """The study of this data and these settings, the present settings first if not yet tried."""
    import optuna

    study = optuna.create_study(
        study_name=_study_name(older, settings),
        storage=f"sqlite:///{settings.data_dir / 'search.sqlite'}",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        # The lock is ours, so whoever ran it is gone.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    # Another seed for each continuation, so that it does not draw what was drawn before.
    study.sampler = optuna.samplers.TPESampler(seed=settings.train.seed + len(_finished(study)))
    present = present_values(settings)
    waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    # Optuna's own `skip_if_exists` would count a trial that was killed.
    if not any(_params(trial) == present for trial in (*_finished(study), *waiting)):
        study.enqueue_trial(present)
    return study


def _params(trial: optuna.trial.FrozenTrial) -> dict[str, Value]:
    """What a trial tries; one that waits has it only as its fixed parameters."""
    return dict(trial.params or trial.system_attrs.get("fixed_params", {}))


def _tried(trial: optuna.trial.FrozenTrial, present: dict[str, Value]) -> Tried:
    score = trial.value if trial.state.name == "COMPLETE" else None
    values = _params(trial)
    return Tried(trial.number, values, score, values == present)


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _study_name(older: Interactions, settings: Settings) -> str:
    searched = ("train", "events", "retrieval", "ordering")
    digest = hashlib.sha256(settings.model_dump_json(include=set(searched)).encode())
    digest.update(repr(sorted(SPACE.items())).encode())
    for column in (older.offsets, older.rows, older.kind_ids, older.timestamps_ms):
        digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def _quiet(label: str, share: float) -> None:
    """Progress of a trial's own steps is not the search's."""
