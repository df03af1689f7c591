"""A run from data to a published bundle: its steps, its refusals, and going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.registry import Registry
from recsys.errors import DataError
from recsys.learning_settings import GateSettings
from recsys.settings import Settings
from tests.untrained_models import small_settings, some_interactions, write_untrained_models
from train_app.examples.interactions import Interactions
from train_app.learning.divergence import TrainingDiverged
from train_app.run_directory import (
    RunDirectory,
    one_at_a_time,
    read_interactions,
    save_interactions,
)
from train_app.train_run import (
    MAX_RESUME_AGE_S,
    TrainRequest,
    TrainTools,
    run_key,
    run_training,
)

LENIENT = GateSettings(
    min_ratio_popularity=0.0, max_calibration_error=None, max_cost_ratio=None, max_churn=None
)
STRICT = GateSettings(min_ratio_popularity=1_000.0)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Workshop:
    """The tools of a run, which remember how often they were used."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.n_loads = 0
        self.n_trainings = 0
        self.killed_at = ""
        self.diverges = False
        self.now_s = now_s
        self.said: list[str] = []
        self.last_train: Interactions | None = None
        self.warm_start: Path | None = None
        self.found: list[str] = []

    def tools(self) -> TrainTools:
        """As `run_training` takes them."""
        return TrainTools(
            load=self._load,
            cutoff_ms=lambda interactions: int(np.quantile(interactions.timestamps_ms, 0.7)),
            train_models=self._train,
            report=self._report,
            say=self.said.append,
            now_s=lambda: self.now_s,
        )

    def _load(self, until_ms: int | None) -> Interactions:
        self.n_loads += 1
        interactions = some_interactions()
        if until_ms is None:
            return interactions
        return interactions.select(interactions.timestamps_ms < until_ms)

    def _train(
        self,
        train: Interactions,
        settings: Settings,
        workdir: Path,
        *,
        warm_start: Path | None,
        report: Callable[[str, float], None],
    ) -> None:
        self.n_trainings += 1
        self.last_train = train
        self.warm_start = warm_start
        workdir.mkdir(parents=True, exist_ok=True)
        self.found = sorted(path.name for path in workdir.iterdir())
        if self.diverges:
            (workdir / "a-checkpoint").touch()
            raise TrainingDiverged("the loss is nan")
        write_untrained_models(train, settings, workdir, warm_start=warm_start, report=report)

    def _report(self, label: str, share: float) -> None:
        if label == self.killed_at:
            raise Killed


def test_a_run_publishes_a_bundle_with_lineage_and_metrics(tmp_path: Path) -> None:
    """The manifest says what was learned from and how it did; the work directory is gone."""
    settings = small_settings(tmp_path, gate=LENIENT)
    workshop = Workshop()
    result = run_training(TrainRequest(publish=True), settings, workshop.tools())
    assert result.manifest is not None
    stored = Registry(settings.registry_location).manifest(result.manifest.bundle_id)
    cutoff_ms = int(np.quantile(some_interactions().timestamps_ms, 0.7))
    assert stored.lineage["train_until_ms"] == cutoff_ms
    assert stored.lineage["lake_version"] == 3
    assert stored.metrics["gate"]["passed"] is True
    assert "page" in stored.metrics["methods"]
    assert workshop.last_train is not None
    assert workshop.last_train.timestamps_ms.max() < cutoff_ms
    assert not (tmp_path / "training").exists()
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_refused_bundle_is_shown_and_not_published(tmp_path: Path) -> None:
    """The result holds table and decision; the registry stays empty."""
    settings = small_settings(tmp_path, gate=STRICT)
    result = run_training(TrainRequest(publish=True), settings, Workshop().tools())
    assert result.manifest is None
    assert not result.evaluation.decision.passed
    assert "page" in result.evaluation.table.text()
    assert Registry(settings.registry_location).list_bundles() == []


def test_without_publish_nothing_is_published(tmp_path: Path) -> None:
    """Training alone only evaluates."""
    settings = small_settings(tmp_path, gate=LENIENT)
    result = run_training(TrainRequest(), settings, Workshop().tools())
    assert result.evaluation.decision.passed
    assert Registry(settings.registry_location).list_bundles() == []


@pytest.mark.parametrize(
    ("killed_at", "n_trainings"), [("training", 2), ("building the index", 1), ("evaluating", 1)]
)
def test_a_killed_run_goes_on_with_its_data_and_its_models(
    tmp_path: Path, killed_at: str, n_trainings: int
) -> None:
    """Finished steps are not done again, and data that came meanwhile is not mixed in."""
    settings = small_settings(tmp_path, gate=LENIENT)
    workshop = Workshop()
    workshop.killed_at = killed_at
    with pytest.raises(Killed):
        run_training(TrainRequest(publish=True), settings, workshop.tools())
    workshop.killed_at = ""
    result = run_training(TrainRequest(publish=True), settings, workshop.tools())
    assert result.manifest is not None
    assert (workshop.n_loads, workshop.n_trainings) == (1, n_trainings)
    assert any("interrupted" in said for said in workshop.said)
    assert len(Registry(settings.registry_location).list_bundles()) == 1


def with_rate(settings: Settings, rate: float, **train: object) -> Settings:
    """The settings with another learning rate of the towers, and more."""
    towers = settings.train.towers.model_copy(update={"learning_rate": rate})
    branch = settings.train.model_copy(update={"towers": towers, **train})
    return settings.model_copy(update={"train": branch})


def test_a_run_that_diverged_goes_on_with_a_lower_rate_and_only_with_that(tmp_path: Path) -> None:
    """Checkpoints and data are those of the run that stopped; with another seed it begins anew."""
    settings = small_settings(tmp_path, gate=LENIENT)
    workshop = Workshop()
    workshop.diverges = True
    with pytest.raises(TrainingDiverged):
        run_training(TrainRequest(publish=True), settings, workshop.tools())
    with pytest.raises(TrainingDiverged):
        run_training(TrainRequest(), with_rate(settings, 1e-4, seed=7), workshop.tools())
    assert workshop.found == []
    workshop.diverges = False
    result = run_training(TrainRequest(publish=True), with_rate(settings, 1e-4), workshop.tools())
    assert result.manifest is not None
    assert workshop.found == ["a-checkpoint"]
    assert workshop.n_loads == 2
    assert not (tmp_path / "training").exists()


def test_a_warm_run_that_diverged_goes_on_with_a_lower_share_of_the_rate(tmp_path: Path) -> None:
    """What the message names is among what may be changed."""
    settings = small_settings(tmp_path, gate=LENIENT)
    workshop = Workshop()
    workshop.diverges = True
    request = TrainRequest(warm_start=True)
    with pytest.raises(TrainingDiverged):
        run_training(request, settings, workshop.tools())
    warm = settings.train.warm.model_copy(update={"rate_share": 0.15})
    train = settings.train.model_copy(update={"warm": warm})
    workshop.diverges = False
    run_training(request, settings.model_copy(update={"train": train}), workshop.tools())
    assert workshop.found == ["a-checkpoint"]
    assert workshop.n_loads == 1


def test_a_run_killed_long_ago_begins_anew(tmp_path: Path) -> None:
    """Its data is no longer the newest."""
    settings = small_settings(tmp_path, gate=LENIENT)
    workshop = Workshop()
    workshop.killed_at = "evaluating"
    with pytest.raises(Killed):
        run_training(TrainRequest(), settings, workshop.tools())
    workshop.killed_at = ""
    workshop.now_s += MAX_RESUME_AGE_S + 1
    run_training(TrainRequest(), settings, workshop.tools())
    assert workshop.n_loads == 2


def test_a_new_bundle_is_compared_with_the_stable_one_on_the_same_engagements(
    tmp_path: Path,
) -> None:
    """Equal models differ by nothing; the stable bundle is the parent; warm starts begin at it."""
    settings = small_settings(tmp_path, gate=LENIENT)
    first = run_training(TrainRequest(publish=True), settings, Workshop().tools()).manifest
    assert first is not None
    ControlWriter(settings.control_url).set_alias("stable", first.bundle_id, expected=None)
    workshop = Workshop(now_s=1_800_000_060.0)
    second = run_training(TrainRequest(True, warm_start=True), settings, workshop.tools())
    assert second.manifest is not None
    assert second.manifest.parents == (first.bundle_id,)
    assert workshop.warm_start == tmp_path.absolute() / "bundles" / first.bundle_id
    versus = second.evaluation.decision.versus_stable
    assert versus is not None
    assert (versus.low, versus.mean, versus.high) == (0, 0, 0)
    assert "stable page" in {row.method for row in second.evaluation.table.figures}


def test_a_stable_bundle_that_cannot_be_read_does_not_stop_a_training(tmp_path: Path) -> None:
    """A new bundle may be the mend; the result says that nothing was compared."""
    settings = small_settings(tmp_path, gate=LENIENT)
    ControlWriter(settings.control_url).set_alias("stable", "b-gone", expected=None)
    result = run_training(TrainRequest(publish=True), settings, Workshop().tools())
    assert result.manifest is not None
    assert result.manifest.parents == ()
    assert any("not compared" in note for note in result.notes)


def test_other_settings_or_another_moment_are_another_run(tmp_path: Path) -> None:
    """What changes the result changes the key; where it is served from does not."""
    settings = small_settings(tmp_path)
    key = run_key(TrainRequest(), settings)
    assert key != run_key(TrainRequest(until_ms=5), settings)
    assert key != run_key(TrainRequest(), small_settings(tmp_path, gate=STRICT))
    serve = settings.serve.model_copy(update={"port": 8001})
    assert key == run_key(TrainRequest(), settings.model_copy(update={"serve": serve}))


def test_until_hides_what_came_later(tmp_path: Path) -> None:
    """Neither learned from nor evaluated on."""
    settings = small_settings(tmp_path, gate=LENIENT)
    times_ms = some_interactions().timestamps_ms
    until_ms = int(np.median(times_ms))
    result = run_training(TrainRequest(until_ms=until_ms), settings, Workshop().tools())
    assert result.evaluation.table.facts["train_until_ms"] < until_ms
    assert result.n_engagements < (times_ms < until_ms).sum()


def test_one_training_at_a_time_names_the_other_process(tmp_path: Path) -> None:
    """The lock is free again when its holder ends."""
    with (
        one_at_a_time(tmp_path / "train.lock", "a training"),
        pytest.raises(DataError, match=r"runs as process \d+"),
        one_at_a_time(tmp_path / "train.lock", "a training"),
    ):
        pass
    with one_at_a_time(tmp_path / "train.lock", "a training"):
        assert (tmp_path / "train.lock").read_text().isdigit()


def test_saved_engagements_are_read_back_whole(tmp_path: Path) -> None:
    """Users, items, kinds, arrays and lineage."""
    before = some_interactions()
    save_interactions(before, tmp_path)
    after = read_interactions(tmp_path)
    for name in ("user_ids", "items", "kinds", "lineage"):
        assert getattr(before, name) == getattr(after, name)
    for name in ("offsets", "rows", "kind_ids", "timestamps_ms", "values"):
        assert np.array_equal(getattr(before, name), getattr(after, name), equal_nan=True)


def test_a_step_is_finished_once_recorded(tmp_path: Path) -> None:
    """Its result survives; clearing forgets it."""
    run = RunDirectory(tmp_path / "run")
    assert run.result("trained") is None
    assert run.finish("trained", {"train_s": 2.5}) == {"train_s": 2.5}
    assert RunDirectory(tmp_path / "run").result("trained") == {"train_s": 2.5}
    run.clear()
    assert run.result("trained") is None
