"""The controller on a real control store, with a fleet, clock and verdicts of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.rollouts.deciding.rollout import actions_of
from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.deciding.rollout_record import Phase, Reason, SetShadow, Shadowing
from cluster.rollouts.deciding.rollout_turn import Turn, Verb, decide, replay
from cluster.rollouts.driving import controller as controller_module
from cluster.rollouts.driving.controller_lease import LEASE_MS, ControllerLease
from cluster.rollouts.driving.rollout_actions import FleetControl, Operator
from cluster.rollouts.storing.control_writer import Fence, StoredRollout
from recsys.evidence.comparison import Verdict
from recsys.stores.control import control_tables
from recsys.traffic import BASELINE, CANARY
from tests.rollouts_for_tests import (
    FAILING,
    PASSING,
    SHADOWED,
    a_fleet,
    judged,
    shadow_sums,
    without_waits,
)


@pytest.fixture(autouse=True)
def _verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "judge_step", judged)
    monkeypatch.setattr(control_tables, "open_engine", without_waits)


def test_evidence_that_passes_promotes_step_by_step(tmp_path: Path) -> None:
    """Every move is recorded with its inputs, and decides the same when decided again."""
    fleet = a_fleet(tmp_path, *PASSING)
    fleet.start()
    rollout = fleet.run(fleet.controller())
    assert (rollout.phase, rollout.is_closed) == (Phase.PROMOTED, True)
    view = fleet.reader.view()
    assert (view.aliases, view.required) == ({"stable": "b2"}, ("b2", "b1"))
    turns = fleet.writer.turns("r1")
    assert replay(turns) == ()
    assert [one.number for one in turns] == list(range(1, len(turns) + 1))
    judgements = [one.turn.judgement.verdict for one in turns if one.turn.judgement]
    assert judgements == [Verdict.PASS, Verdict.PASS]
    places = [(one.after.phase, one.after.step) for one in fleet.told if one.before is not None]
    assert places[0] == (Phase.PREPARING, 0)
    assert rollout.opened_ms is not None


def test_what_the_schedule_published_is_rolled_out_and_judged(tmp_path: Path) -> None:
    """Nobody but the controller that holds the lease begins it, and only while there is none."""
    fleet = a_fleet(tmp_path, *PASSING)
    asked: list[str] = []

    def begin(name: str) -> bool:
        assert fleet.writer.open_rollout() is None
        asked.append(name)
        return bool(fleet.start()) if not fleet.writer.rollouts() else False

    one = fleet.controller("one", begin_scheduled=lambda: begin("one"))
    two = fleet.controller("two", begin_scheduled=lambda: begin("two"))
    one.turn()
    two.turn()
    assert fleet.run(one, two).phase is Phase.PROMOTED
    assert asked == ["one"]
    one.turn()
    assert asked == ["one", "one"]
    assert len(fleet.writer.rollouts()) == 1


def test_evidence_that_fails_aborts_with_its_message(tmp_path: Path) -> None:
    """All traffic is back on stable, and the bundle is let go."""
    fleet = a_fleet(tmp_path, *FAILING)
    fleet.start()
    rollout = fleet.run(fleet.controller())
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.EVIDENCE)
    assert rollout.message == "step 2 of 2 failed: fail by ctr"
    assert rollout.judgement == judged(None, 1, {BASELINE: 1, CANARY: FAILING}).to_json()
    view = fleet.reader.view()
    assert view.plan is not None
    assert (view.plan.bundle_ids, view.required) == (("b1",), ("b1",))
    assert replay(fleet.writer.turns("r1")) == ()


def test_answers_are_compared_on_copies_before_the_first_user(tmp_path: Path) -> None:
    """The canary gets copies, then none, and then its first users."""
    fleet = a_fleet(tmp_path, *PASSING)
    fleet.evidence.copies = shadow_sums(0)
    fleet.start(SHADOWED)
    controller = fleet.controller()
    fleet.run(controller, turns=8)
    stored = fleet.writer.open_rollout()
    assert stored is not None
    assert (stored.rollout.phase, stored.rollout.shadow) == (Phase.PREPARING, Shadowing.RUNNING)
    (plan,) = fleet.reader.view().shadows
    assert (plan.shadow_id, plan.bundle_id, plan.share) == ("r1", "b2", 0.2)
    fleet.evidence.copies = shadow_sums(10)
    rollout = fleet.run(controller)
    assert (rollout.phase, rollout.shadow) == (Phase.PROMOTED, Shadowing.OVER)
    assert fleet.reader.view().shadows == ()
    moved = fleet.writer.turns("r1")
    assert replay(moved) == ()
    order = list(dict.fromkeys((one.after.phase, one.after.shadow) for one in moved))
    assert order[:5] == [
        (Phase.STARTING, Shadowing.NONE),
        (Phase.PREPARING, Shadowing.NONE),
        (Phase.PREPARING, Shadowing.RUNNING),
        (Phase.PREPARING, Shadowing.OVER),
        (Phase.CANARY, Shadowing.OVER),
    ]
    assert rollout.shadow_judgement is not None
    assert rollout.shadow_judgement["n_compared"] == 10


def test_copies_that_fail_abort_before_the_first_user(tmp_path: Path) -> None:
    """The shadow is closed, and nobody was answered by the bundle."""
    fleet = a_fleet(tmp_path, *PASSING)
    fleet.evidence.copies = shadow_sums(30, n_failed=20)
    fleet.start(SHADOWED)
    rollout = fleet.run(fleet.controller())
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.EVIDENCE)
    assert "20 of 30 copies failed (timeout 20)" in rollout.message
    assert rollout.opened_ms is None
    assert [one.record.is_closed for one in fleet.shadows.all()] == [True]
    assert fleet.reader.view().beside == ()
    assert replay(fleet.writer.turns("r1")) == ()


def test_a_controller_that_is_late_begins_no_shadow_that_is_over(tmp_path: Path) -> None:
    """An abort between record and act leaves a closed shadow, which nothing opens again."""
    fleet = a_fleet(tmp_path, *PASSING)
    fleet.start(SHADOWED)
    controller = fleet.controller()
    while (stored := fleet.writer.open_rollout()) and stored.rollout.shadow is Shadowing.NONE:
        controller.turn()
        fleet.poll()
    assert stored is not None
    assert fleet.shadows.all() == []
    operator = Operator("late", lambda: fleet.now_ms, fleet.poll, lambda line: None)
    control = FleetControl(fleet.settings, fleet.writer, fleet.reader, operator)
    turn = Turn(Verb.ABORT, fleet.now_ms, control.observe(stored.rollout), message="stop")
    aborted = decide(stored.rollout, turn)
    fleet.writer.save_rollout(aborted, stored.revision, "ann", fleet.now_ms, turn=turn, driven_ms=0)
    assert fleet.run(controller).is_closed
    for action in actions_of(stored.rollout):
        if isinstance(action, SetShadow):
            control._perform(action, Fence("r1", stored.revision))
    assert [one.record.is_closed for one in fleet.shadows.all()] == [True]


@pytest.mark.parametrize("is_away", [True, False])
def test_no_evidence_holds_however_long_and_does_not_fill_the_store(
    tmp_path: Path, is_away: bool
) -> None:
    """Undecided, or the evidence store away: the step is what it was after twenty minutes."""
    fleet = a_fleet(tmp_path, Verdict.INCONCLUSIVE)
    fleet.start()
    controller = fleet.controller()
    fleet.run(controller, turns=6)
    fleet.evidence.is_away = is_away
    before = len(fleet.writer.turns("r1"))
    for _ in range(40):
        fleet.poll(30)
        controller.turn()
        fleet.poll()
    stored = fleet.writer.open_rollout()
    assert stored is not None
    assert (stored.rollout.phase, stored.rollout.step) == (Phase.CANARY, 0)
    assert ("no disk" in stored.rollout.message) == is_away
    assert len(fleet.writer.turns("r1")) - before <= 40
    assert replay(fleet.writer.turns("r1")) == ()


def test_one_holds_the_lease_and_another_follows_when_it_falls_silent(tmp_path: Path) -> None:
    """Or at once, when it lets go."""
    fleet = a_fleet(tmp_path, *PASSING)
    lease = ControllerLease(fleet.url)
    assert not lease.is_held(fleet.now_ms)
    assert lease.take("one", fleet.now_ms)
    assert not lease.take("two", fleet.now_ms + LEASE_MS - 1)
    assert lease.is_held(fleet.now_ms + LEASE_MS - 1)
    assert lease.take("two", fleet.now_ms + LEASE_MS)
    lease.give_back("one")
    assert not lease.take("one", fleet.now_ms + LEASE_MS)
    lease.give_back("two")
    assert lease.take("one", fleet.now_ms + LEASE_MS)
    assert lease.take("two", fleet.now_ms - 2 * LEASE_MS), "a clock that was set back frees it"


def test_an_operator_who_drives_is_left_alone_and_one_who_left_is_followed(
    tmp_path: Path,
) -> None:
    """An instant rollout too."""
    fleet = a_fleet(tmp_path)
    started = fleet.start(RolloutPlan("instant"))
    fleet.writer.touch_rollout(Fence("r1", started.revision), "ann", fleet.now_ms)
    controller = fleet.controller()
    controller.turn()
    assert fleet.writer.open_rollout() == StoredRollout(started.rollout, 1, "ann", fleet.now_ms)
    fleet.poll(11)
    assert fleet.run(controller).phase is Phase.PROMOTED


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.SKIP, Verb.PROMOTE, Verb.ABORT])
def test_an_operators_word_is_what_the_controller_goes_on_from(tmp_path: Path, verb: Verb) -> None:
    """Between any of its turns."""
    fleet = a_fleet(tmp_path, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    fleet.start()
    controller = fleet.controller()
    fleet.run(controller, turns=10)
    stored = fleet.writer.open_rollout()
    assert stored is not None
    operator = Operator("ann", lambda: fleet.now_ms, fleet.poll, lambda line: None)
    seen = FleetControl(fleet.settings, fleet.writer, fleet.reader, operator).observe(
        stored.rollout
    )
    turn = Turn(verb, seen.now_ms, seen, None, Reason.FORCED, "ann says so")
    said = decide(stored.rollout, turn)
    fleet.writer.save_rollout(said, stored.revision, "ann", fleet.now_ms, turn=turn, driven_ms=0)
    rollout = fleet.run(controller, turns=10)
    places = {
        Verb.PAUSE: (Phase.PAUSED, 0),
        Verb.SKIP: (Phase.CANARY, 1),
        Verb.PROMOTE: (Phase.PROMOTED, 2),
        Verb.ABORT: (Phase.ABORTED, 0),
    }
    assert (rollout.phase, rollout.step) == places[verb]
    assert replay(fleet.writer.turns("r1")) == ()
    assert "ann says so" in [entry.why for entry in fleet.writer.history()]


def test_an_abort_reaches_the_gateways_with_their_next_poll(tmp_path: Path) -> None:
    """One turn records it, the next sets the plan; then a poll of a second is all there is."""
    fleet = a_fleet(tmp_path, Verdict.INCONCLUSIVE)
    fleet.start()
    controller = fleet.controller()
    fleet.run(controller, turns=10)
    fleet.evidence.verdicts[0] = Verdict.FAIL
    failed_ms = fleet.now_ms
    while True:
        fleet.now_ms += round(1000 * controller.turn())
        plan = fleet.reader.view().plan
        assert plan is not None
        if plan.bundle_ids == ("b1",):
            break
    assert fleet.now_ms - failed_ms + 1000 * fleet.settings.serve.plan_poll_s <= 2_000
