"""Experiments in the control store: slices, names, states, and what gateways see of them."""

from __future__ import annotations

import pytest

from cluster.experiments.experiment_record import (
    Declaration,
    ExperimentRecord,
    ExperimentState,
    experiment_id,
)
from cluster.experiments.experiment_sides import bundle_sides, ordering_sides
from cluster.experiments.experiment_writer import ExperimentWriter
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import ConfigError, RolloutConflict
from recsys.experiment_plan import Layer
from recsys.stores.control.control import ControlReader


def a_record(
    name: str, share: float = 0.4, now_ms: int = 0, layer: Layer = Layer.BUNDLE
) -> ExperimentRecord:
    """An experiment that nobody has recorded yet."""
    arms = bundle_sides("b1", "b2") if layer is Layer.BUNDLE else ordering_sides({"pool": 9})
    return ExperimentRecord(
        experiment_id(name, now_ms), name, layer, arms, share, "ann", now_ms, Declaration()
    )


def test_gateways_follow_a_running_experiment_and_hold_its_bundles_before(control_url: str) -> None:
    """While it is prepared its bundles are needed and nobody is in it."""
    writer = ExperimentWriter(control_url)
    reader = ControlReader(control_url)
    stored = writer.start(a_record("one"), 5)
    assert reader.view().beside == ("b1", "b2")
    assert reader.view().experiments.plans == ()
    running = writer.set_running(stored.record.experiment_id, stored.revision, "ann", 9)
    assert [plan.experiment_id for plan in reader.view().experiments.plans] == [
        stored.record.experiment_id
    ]
    assert running.record.ran_from_ms == 9
    again = writer.set_running(stored.record.experiment_id, stored.revision, "ann", 11)
    assert again == running
    writer.stop(stored.record.experiment_id, running.revision, "bob", 20, "seen enough")
    assert reader.view().beside == () and reader.view().experiments.plans == ()
    lines = ControlWriter(control_url).history()
    assert [(one.verb, one.who, one.at_ms) for one in lines] == [
        ("experiment", "ann", 5),
        ("experiment", "ann", 9),
        ("experiment", "bob", 20),
    ]
    assert lines[-1].why == "seen enough"


def test_a_full_layer_says_what_is_free_and_who_holds_the_rest(control_url: str) -> None:
    """The other layer is not touched by it, and a stopped experiment gives its slice back."""
    writer = ExperimentWriter(control_url)
    first = writer.start(a_record("one"), 0)
    second = writer.start(a_record("two"), 0)
    assert (first.record.begin, second.record.begin) == (0.0, 0.4)
    with pytest.raises(RolloutConflict, match=r"free is 20.0%.*one \(40.0%\), two \(40.0%\)"):
        writer.start(a_record("three"), 0)
    assert writer.start(a_record("four", layer=Layer.ORDERING), 0).record.begin == 0.0
    writer.stop(first.record.experiment_id, 1, "ann", 1, "")
    assert writer.start(a_record("three", 0.3), 2).record.begin == 0.0


def test_a_name_is_free_again_once_its_experiment_is_stopped(control_url: str) -> None:
    """The new one has an id, and so users, of its own."""
    writer = ExperimentWriter(control_url)
    first = writer.start(a_record("one"), 0)
    with pytest.raises(RolloutConflict, match="expected a name that no open experiment has"):
        writer.start(a_record("one", now_ms=5_000), 5_000)
    stopped = writer.stop(first.record.experiment_id, 1, "ann", 1, "")
    assert writer.stop(first.record.experiment_id, 1, "ann", 2, "again") == stopped
    second = writer.start(a_record("one", now_ms=5_000), 5_000)
    assert second.record.experiment_id != first.record.experiment_id
    assert writer.named("one") == second
    assert writer.named(first.record.experiment_id) == stopped
    with pytest.raises(ConfigError, match="expected one of: one"):
        writer.named("two")


def test_a_change_on_an_old_revision_is_refused(control_url: str) -> None:
    """Two operators do not end up with what neither of them saw."""
    writer = ExperimentWriter(control_url)
    stored = writer.start(a_record("one"), 0)
    name = stored.record.experiment_id
    writer.set_running(name, 1, "ann", 1)
    with pytest.raises(RolloutConflict, match="somebody else changed"):
        writer.stop(name, 1, "bob", 2, "")
    assert writer.named("one").record.state is ExperimentState.RUNNING
    stopped = writer.stop(name, 2, "bob", 3, "")
    with pytest.raises(RolloutConflict, match="it is stopped"):
        writer.set_running(name, stopped.revision, "ann", 4)


def test_the_holdout_is_kept_and_a_wrong_share_refused(control_url: str) -> None:
    """Gateways see it; setting it to what it is says nothing in the history."""
    writer = ExperimentWriter(control_url)
    assert writer.holdout() == 0.0
    writer.set_holdout(0.05, "ann", 1)
    writer.set_holdout(0.05, "ann", 2)
    assert ControlReader(control_url).view().experiments.holdout == 0.05
    assert len(ControlWriter(control_url).history()) == 1
    with pytest.raises(ConfigError, match="expected one from 0 to below 1"):
        writer.set_holdout(1.5, "ann", 3)


def test_a_record_comes_back_as_it_was_stored(control_url: str) -> None:
    """Declaration, arms and what was asked for survive the store."""
    writer = ExperimentWriter(control_url)
    stored = writer.start(a_record("one", layer=Layer.ORDERING), 0)
    assert writer.open_experiments() == [stored]
    assert stored.record.design().rule.margin == Declaration().margin
