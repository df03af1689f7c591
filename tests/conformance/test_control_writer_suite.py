"""Compare-and-set in the control store, alone and against rivals."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.storing.control_writer import ControlWriter, Fence, HistoryEntry
from recsys.errors import RolloutConflict
from recsys.stores.control.control import ControlReader, ReadinessReporter
from recsys.traffic import TrafficPlan
from tests.control_backends import tables_in


def a_store(url: str) -> tuple[ControlWriter, ControlReader]:
    """A new store with its writer and a reader."""
    return ControlWriter(url), ControlReader(url)


def a_rollout(rollout_id: str = "r1", bundle_id: str = "b2", started_ms: int = 0) -> Rollout:
    """A rollout that just started."""
    return Rollout(
        rollout_id, bundle_id, "b1", "instant", (), ("b1",), (bundle_id, "b1"), started_ms, 1, 0
    )


def test_a_store_that_was_never_written_has_no_rollouts_and_no_history(control_url: str) -> None:
    """Looking makes no file."""
    writer, _ = a_store(control_url)
    assert (writer.rollouts(), writer.open_rollout(), writer.history()) == ([], None, [])
    assert tables_in(control_url) == set()


def test_a_plan_is_set_only_over_the_epoch_that_was_seen(control_url: str) -> None:
    """And only by a higher one."""
    writer, reader = a_store(control_url)
    first, second = TrafficPlan.single("b1", 1, "s"), TrafficPlan.single("b2", 2, "s")
    writer.set_plan(first, 0)
    with pytest.raises(RolloutConflict, match="at epoch 1, expected 0"):
        writer.set_plan(second, 0)
    with pytest.raises(RolloutConflict, match="epoch 1"):
        writer.set_plan(TrafficPlan.single("b2", 1, "s"), 1)
    assert reader.view().plan == first
    writer.set_plan(second, 1)
    assert reader.view().plan == second


def test_an_alias_moves_only_from_where_it_was_seen(control_url: str) -> None:
    """None means that it names nothing yet."""
    writer, reader = a_store(control_url)
    writer.set_alias("stable", "b1", None)
    with pytest.raises(RolloutConflict, match="names b1, expected none"):
        writer.set_alias("stable", "b2", None)
    writer.set_alias("stable", "b2", "b1")
    assert reader.view().aliases == {"stable": "b2"}


def test_required_bundles_change_only_from_what_was_seen(control_url: str) -> None:
    """Their order is kept, and each stands once."""
    writer, reader = a_store(control_url)
    writer.set_required(("b2", "b1", "b2"), ())
    assert reader.view().required == ("b2", "b1")
    with pytest.raises(RolloutConflict, match="are b2, b1, expected none"):
        writer.set_required(("b3",), ())
    writer.set_required((), ("b2", "b1"))
    assert reader.view().required == ()


def test_a_change_that_is_already_there_is_done(control_url: str) -> None:
    """A replay after a crash changes nothing, not even the revision."""
    writer, reader = a_store(control_url)

    def replay() -> None:
        writer.set_plan(TrafficPlan.single("b1", 1, "s"), 0)
        writer.set_alias("stable", "b1", None)
        writer.set_required(("b1",), ())

    replay()
    before = reader.view()
    replay()
    assert reader.view() is before


def test_a_fenced_change_needs_the_record_it_was_made_for(control_url: str) -> None:
    """An operator who lost the rollout can no longer act for it."""
    writer, reader = a_store(control_url)
    stored = writer.start_rollout(a_rollout(), "ann", 0)
    late = Fence("r1", stored.revision)
    writer.save_rollout(replace(stored.rollout, phase=Phase.ABORTED), stored.revision, "bob", 1)
    for change in (
        lambda: writer.set_plan(TrafficPlan.single("b2", 9, "s"), 0, fence=late),
        lambda: writer.set_alias("stable", "b2", None, fence=late),
        lambda: writer.set_required(("b2",), (), fence=late),
        lambda: writer.touch_rollout(late, "ann", 5),
        lambda: writer.save_rollout(stored.rollout, stored.revision, "ann", 5),
    ):
        with pytest.raises(RolloutConflict, match="aborted by bob"):
            change()
    assert (reader.view().plan, reader.view().required) == (None, ())
    with pytest.raises(RolloutConflict, match="it is gone"):
        writer.touch_rollout(Fence("r0", 1), "ann", 5)


def test_one_rollout_at_a_time_and_the_other_is_named(control_url: str) -> None:
    """A finished one blocks too, until the fleet was told."""
    writer, _ = a_store(control_url)
    stored = writer.start_rollout(a_rollout(), "ann", 0)
    with pytest.raises(RolloutConflict, match="rollout r1 of b2 is starting"):
        writer.start_rollout(a_rollout("r2"), "bob", 1)
    ended = replace(stored.rollout, phase=Phase.ABORTED, is_settled=False)
    stored = writer.save_rollout(ended, 1, "ann", 2)
    with pytest.raises(RolloutConflict, match="is aborted"):
        writer.start_rollout(a_rollout("r2"), "bob", 3)
    writer.save_rollout(replace(ended, is_settled=True), 2, "ann", 4)
    assert writer.open_rollout() is None
    writer.start_rollout(a_rollout("r2", started_ms=5), "bob", 5)
    assert [stored.rollout.rollout_id for stored in writer.rollouts()] == ["r1", "r2"]


def test_a_record_reads_back_as_it_was_saved(control_url: str) -> None:
    """With its driver, who may say that they still drive without changing it."""
    writer, _ = a_store(control_url)
    rollout = replace(a_rollout(), steps=(0.1, 0.5), reason=Reason.OPERATOR, message="ümlaut")
    stored = writer.start_rollout(rollout, "ann", 7)
    assert writer.open_rollout() == stored
    writer.touch_rollout(Fence("r1", 1), "ann", 9)
    assert writer.open_rollout() == replace(stored, driven_ms=9)


def test_the_history_keeps_every_phase_and_no_heartbeat(control_url: str) -> None:
    """Who, what and why, oldest first."""
    writer, _ = a_store(control_url)
    stored = writer.start_rollout(a_rollout(), "ann", 1)
    waiting = replace(stored.rollout, message="1 of 2 ready")
    stored = writer.save_rollout(waiting, stored.revision, "ann", 2)
    ended = replace(waiting, phase=Phase.ABORTED, message="refused")
    writer.save_rollout(ended, stored.revision, "ann", 3)
    writer.append_history(HistoryEntry(4, "bob", "adopt", "b1", "first"))
    assert writer.history() == [
        HistoryEntry(1, "ann", "starting", "r1: b1 -> b2", "rollout requested"),
        HistoryEntry(3, "ann", "aborted", "r1: b1 -> b2", "refused"),
        HistoryEntry(4, "bob", "adopt", "b1", "first"),
    ]


def test_replicas_can_be_forgotten(control_url: str) -> None:
    """Before a new cluster starts."""
    writer, reader = a_store(control_url)
    ReadinessReporter(control_url).report("g1", "gateway", {"b1": ("ready", "")}, 1, 1)
    writer.forget_replicas()
    assert reader.readiness() == []


def outcomes_of(results: list[str]) -> tuple[int, int]:
    """How many won and how many were told that they lost."""
    return results.count("won"), results.count("lost")


def attempt(change: Callable[[], object]) -> str:
    """Try one change."""
    try:
        change()
    except RolloutConflict:
        return "lost"
    return "won"


@pytest.mark.parametrize("what", ["plan", "alias", "required", "rollout"])
def test_of_rival_threads_exactly_one_wins(control_url: str, what: str) -> None:
    """On a store that none of them has opened before."""
    start = threading.Barrier(4)
    results: list[str] = []

    def rival(number: int) -> None:
        writer = ControlWriter(control_url)
        bundle_id = f"b{number}"
        changes: dict[str, Callable[[], object]] = {
            "plan": lambda: writer.set_plan(TrafficPlan.single(bundle_id, 1, "s"), 0),
            "alias": lambda: writer.set_alias("stable", bundle_id, None),
            "required": lambda: writer.set_required((bundle_id,), ()),
            "rollout": lambda: writer.start_rollout(a_rollout(bundle_id), "ann", 0),
        }
        start.wait()
        results.append(attempt(changes[what]))

    threads = [threading.Thread(target=rival, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes_of(results) == (1, 3)


def count_up(url: str, n_times: int) -> None:
    """Raise the plan's epoch `n_times`, however often a rival is faster."""
    writer, reader = ControlWriter(url), ControlReader(url)
    done = 0
    while done < n_times:
        plan = reader.view().plan
        epoch = 0 if plan is None else plan.epoch
        done += (
            attempt(
                lambda epoch=epoch: writer.set_plan(  # type: ignore[misc]
                    TrafficPlan.single("b1", epoch + 1, f"{multiprocessing.current_process().pid}"),
                    epoch,
                )
            )
            == "won"
        )


def test_no_change_of_rival_processes_is_lost(control_url: str) -> None:
    """Every won epoch is one higher than the one before."""
    context = multiprocessing.get_context("fork")
    rivals = [context.Process(target=count_up, args=(control_url, 20)) for _ in range(2)]
    for process in rivals:
        process.start()
    for process in rivals:
        process.join(60)
    assert [process.exitcode for process in rivals] == [0, 0]
    plan = ControlReader(control_url).view().plan
    assert plan is not None
    assert plan.epoch == 40
