"""Experiments in the control store: slices, names, states, and what gateways see of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.experiments.experiment_record import (
    Declaration,
    ExperimentRecord,
    ExperimentState,
    experiment_id,
)
from cluster.experiments.experiment_sides import bundle_sides, ordering_sides
from cluster.experiments.experiment_writer import ExperimentWriter
from cluster.experiments.layer_slices import first_gap, free_gaps
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import ConfigError, RolloutConflict
from recsys.experiment_plan import Layer
from recsys.stores.control import ControlReader


def a_record(
    name: str, share: float = 0.4, now_ms: int = 0, layer: Layer = Layer.BUNDLE
) -> ExperimentRecord:
    """An experiment that nobody has recorded yet."""
    arms = bundle_sides("b1", "b2") if layer is Layer.BUNDLE else ordering_sides({"pool": 9})
    return ExperimentRecord(
        experiment_id(name, now_ms), name, layer, arms, share, "ann", now_ms, Declaration()
    )


def a_store(folder: Path) -> tuple[str, ExperimentWriter]:
    """The URL of a control store, and its writer of experiments."""
    url = f"sqlite:///{folder / 'control.sqlite'}"
    return url, ExperimentWriter(url)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=30))
def test_slices_never_overlap_and_a_gap_that_fits_is_found(
    steps: list[tuple[int, bool]],
) -> None:
    """Whatever comes and goes: slices stay apart and within [0, 1], and none is refused wrongly."""
    taken: list[tuple[float, float]] = []
    for percent, leaves in steps:
        share = percent / 100
        begin = first_gap(taken, share)
        if begin is None:
            assert all(size < share for _, size in free_gaps(taken))
        else:
            assert begin >= 0 and begin + share <= 1 + 1e-9
            for other, size in taken:
                assert begin + share <= other + 1e-8 or other + size <= begin + 1e-8
            taken.append((begin, share))
        if leaves and taken:
            taken.pop(len(taken) // 2)
    assert sum(size for _, size in free_gaps(taken)) == pytest.approx(
        1 - sum(size for _, size in taken), abs=1e-6
    )


def test_gateways_follow_a_running_experiment_and_hold_its_bundles_before(tmp_path: Path) -> None:
    """While it is prepared its bundles are needed and nobody is in it."""
    url, writer = a_store(tmp_path)
    reader = ControlReader(url)
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
    lines = ControlWriter(url).history()
    assert [(one.verb, one.who, one.at_ms) for one in lines] == [
        ("experiment", "ann", 5),
        ("experiment", "ann", 9),
        ("experiment", "bob", 20),
    ]
    assert lines[-1].why == "seen enough"


def test_a_full_layer_says_what_is_free_and_who_holds_the_rest(tmp_path: Path) -> None:
    """The other layer is not touched by it, and a stopped experiment gives its slice back."""
    _, writer = a_store(tmp_path)
    first = writer.start(a_record("one"), 0)
    second = writer.start(a_record("two"), 0)
    assert (first.record.begin, second.record.begin) == (0.0, 0.4)
    with pytest.raises(RolloutConflict, match=r"free is 20.0%.*one \(40.0%\), two \(40.0%\)"):
        writer.start(a_record("three"), 0)
    assert writer.start(a_record("four", layer=Layer.ORDERING), 0).record.begin == 0.0
    writer.stop(first.record.experiment_id, 1, "ann", 1, "")
    assert writer.start(a_record("three", 0.3), 2).record.begin == 0.0


def test_a_name_is_free_again_once_its_experiment_is_stopped(tmp_path: Path) -> None:
    """The new one has an id, and so users, of its own."""
    _, writer = a_store(tmp_path)
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


def test_a_change_on_an_old_revision_is_refused(tmp_path: Path) -> None:
    """Two operators do not end up with what neither of them saw."""
    _, writer = a_store(tmp_path)
    stored = writer.start(a_record("one"), 0)
    name = stored.record.experiment_id
    writer.set_running(name, 1, "ann", 1)
    with pytest.raises(RolloutConflict, match="somebody else changed"):
        writer.stop(name, 1, "bob", 2, "")
    assert writer.named("one").record.state is ExperimentState.RUNNING
    stopped = writer.stop(name, 2, "bob", 3, "")
    with pytest.raises(RolloutConflict, match="it is stopped"):
        writer.set_running(name, stopped.revision, "ann", 4)


def test_the_holdout_is_kept_and_a_wrong_share_refused(tmp_path: Path) -> None:
    """Gateways see it; setting it to what it is says nothing in the history."""
    url, writer = a_store(tmp_path)
    assert writer.holdout() == 0.0
    writer.set_holdout(0.05, "ann", 1)
    writer.set_holdout(0.05, "ann", 2)
    assert ControlReader(url).view().experiments.holdout == 0.05
    assert len(ControlWriter(url).history()) == 1
    with pytest.raises(ConfigError, match="expected one from 0 to below 1"):
        writer.set_holdout(1.5, "ann", 3)


def test_a_record_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    """Declaration, arms and what was asked for survive the store."""
    _, writer = a_store(tmp_path)
    stored = writer.start(a_record("one", layer=Layer.ORDERING), 0)
    assert writer.open_experiments() == [stored]
    assert stored.record.design().rule.margin == Declaration().margin
