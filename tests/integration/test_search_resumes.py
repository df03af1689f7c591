"""A search with its store: it goes on where it stopped, and a trial that diverges is given up."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.settings import Settings
from tests.untrained_models import small_settings, some_interactions, write_untrained_models
from train_app.examples.interactions import Interactions
from train_app.examples.lake_examples import split_by_time
from train_app.learning.divergence import TrainingDiverged
from train_app.searching.search_command import found_text
from train_app.searching.search_run import SearchRequest, SearchTools, run_search
from train_app.searching.search_space import with_values

pytestmark = pytest.mark.integration


def no_training(
    train: Interactions,
    settings: Settings,
    workdir: Path,
    *,
    warm_start: Path | None,
    report: Callable[[str, float], None],
) -> None:
    """Models of the wanted shapes; the middle rates diverge."""
    if 1e-3 < settings.train.towers.learning_rate < 2e-3:
        raise TrainingDiverged("the loss is nan")
    write_untrained_models(train, small_settings(Path()), workdir, warm_start=None, report=report)


def tools_of(said: list[str]) -> SearchTools:
    """Untrained models, so that only the search itself takes time."""
    return SearchTools(
        cutoff_ms=lambda interactions: split_by_time(interactions, 0.2),
        train_models=no_training,
        report=lambda label, share: None,
        say=said.append,
    )


def test_a_search_goes_on_where_it_stopped_and_never_sees_the_test_part(tmp_path: Path) -> None:
    """Trials of before count; the held-out part is in no trial's data."""
    settings, data, said = small_settings(tmp_path), some_interactions(60), list[str]()
    first = run_search(data, SearchRequest(n_trials=2), settings, tools_of(said))
    assert [tried.number for tried in first.trials] == [0, 1]
    again = run_search(data, SearchRequest(n_trials=3), settings, tools_of(said))
    assert len(again.trials) == 3
    assert again.trials[:2] == first.trials
    assert any("2 trials of an earlier search" in line for line in said)
    assert again.best is not None
    text = found_text(again)
    assert tomllib.loads(text)["train"]["towers"]
    assert "over the present settings" in text
    json.dumps(again.as_dict(), allow_nan=False)
    assert not (tmp_path / "searching").exists()


def test_the_present_settings_are_tried_after_their_trial_was_killed(tmp_path: Path) -> None:
    """What fails leaves them untried; once they are done they are not tried again."""
    settings, data = small_settings(tmp_path), some_interactions(60)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(data, SearchRequest(1), settings, replace(tools_of([]), train_models=killed))
    for n_trials in (1, 2):
        found = run_search(data, SearchRequest(n_trials), settings, tools_of([]))
        assert [tried.is_present for tried in found.trials] == [True, False][:n_trials]


def test_a_trial_that_diverges_is_given_up(tmp_path: Path) -> None:
    """The search goes on; a trial without a score is never the best."""
    settings = with_values(small_settings(tmp_path), {"train.towers.learning_rate": 1.5e-3})
    found = run_search(some_interactions(60), SearchRequest(n_trials=4), settings, tools_of([]))
    assert found.trials[0].score is None
    assert found.best is None or found.best.number != 0
