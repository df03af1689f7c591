"""The rollout state machine: each rule of the design as a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rollouts.observation import bundle_health, expected_replicas, followed_epoch
from cluster.rollouts.rollout import abort, actions_of, advance, pause, resume, retry
from cluster.rollouts.rollout_record import (
    Action,
    BundleHealth,
    Health,
    Observation,
    Phase,
    Reason,
    Release,
    Require,
    Rollout,
    SetAlias,
    SetPlan,
    Verdict,
    earlier_stables,
)
from recsys.errors import StoreError
from recsys.settings import ServeSettings, Settings
from recsys.stores.control import Readiness
from recsys.traffic import TrafficPlan

TIMEOUT_MS = 10_000
UNFINISHED = [phase for phase in Phase if phase not in {Phase.PROMOTED, Phase.ABORTED}]


def a_rollout(phase: Phase = Phase.STARTING, **changes: object) -> Rollout:
    """A rollout of b2 over b1, settled in its phase."""
    steps = (0.1, 0.5) if phase in {Phase.CANARY, Phase.PAUSED} else ()
    rollout = Rollout(
        rollout_id="r1",
        bundle_id="b2",
        stable_id="b1",
        plan_name="instant",
        steps=steps,
        resident_before=("b1", "b0"),
        resident_after=("b2", "b1"),
        started_ms=0,
        ready_timeout_ms=TIMEOUT_MS,
        since_ms=0,
        phase=phase,
        epoch=0 if phase in {Phase.STARTING, Phase.PREPARING} else 5,
    )
    return replace(rollout, **changes)  # type: ignore[arg-type]


def seen(
    candidate: Health = Health.READY,
    stable: Health = Health.READY,
    followed_epoch: int | None = 5,
    now_ms: int = 1_000,
) -> Observation:
    """What a turn sees of a healthy fleet, unless said otherwise."""
    return Observation(
        now_ms,
        5,
        BundleHealth(candidate, f"b2 {candidate}"),
        BundleHealth(stable, f"b1 {stable}"),
        followed_epoch,
    )


def settled(rollout: Rollout) -> Rollout:
    """The record once its actions are done."""
    return replace(rollout, is_settled=True)


def test_an_instant_rollout_prepares_promotes_and_closes() -> None:
    """The whole way, with what each phase asks for."""
    rollout, actions = advance(a_rollout(), seen())
    assert (rollout.phase, actions) == (Phase.PREPARING, (Require(("b1", "b0", "b2")),))
    rollout, actions = advance(settled(rollout), seen())
    assert rollout.phase is Phase.PROMOTING
    assert actions == (SetPlan(TrafficPlan.single("b2", 6, "r1")),)
    held, actions = advance(settled(rollout), seen(followed_epoch=5))
    assert (held.phase, actions) == (Phase.PROMOTING, ())
    rollout, actions = advance(held, seen(followed_epoch=6))
    assert rollout.phase is Phase.PROMOTED
    assert actions == (SetAlias("stable", "b2", instead_of="b1"), Release(("b2", "b1"), 6))
    assert rollout.is_finished
    assert not rollout.is_closed
    assert settled(rollout).is_closed


def test_a_judged_rollout_takes_its_steps_one_by_one() -> None:
    """Canary and baseline are equal slices, and stable has the rest."""
    rollout, actions = advance(a_rollout(Phase.PREPARING, steps=(0.1, 0.5)), seen())
    assert (rollout.phase, rollout.step, rollout.epoch) == (Phase.CANARY, 0, 6)
    assert [(arm.variant, arm.bundle_id, arm.share) for arm in actions[0].plan.arms] == [  # type: ignore[union-attr]
        ("stable", "b1", 0.8),
        ("baseline", "b1", 0.1),
        ("canary", "b2", 0.1),
    ]
    rollout, actions = advance(settled(rollout), seen(), Verdict.PASS)
    assert (rollout.phase, rollout.step, rollout.epoch) == (Phase.CANARY, 1, 7)
    rollout, actions = advance(settled(rollout), seen(), Verdict.PASS)
    assert (rollout.phase, rollout.epoch) == (Phase.PROMOTING, 8)


def test_a_failed_step_leads_traffic_back_before_the_bundle_is_let_go() -> None:
    """The order of the actions is the order they are done in."""
    rollout, actions = advance(a_rollout(Phase.CANARY), seen(), Verdict.FAIL)
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.EVIDENCE)
    assert actions == (SetPlan(TrafficPlan.single("b1", 6, "r1")), Release(("b1", "b0"), 6))


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.CANARY, Phase.PROMOTING])
def test_a_replica_that_refuses_the_bundle_aborts_with_its_reason(phase: Phase) -> None:
    """Whatever else was seen."""
    rollout, _ = advance(a_rollout(phase), seen(Health.FAILED), Verdict.PASS)
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.REFUSED)
    assert rollout.message == "b2 failed"


@pytest.mark.parametrize("health", [Health.UNKNOWN, Health.LOADING])
@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.CANARY, Phase.PROMOTING])
def test_no_data_never_promotes(phase: Phase, health: Health) -> None:
    """A fleet that says nothing of the bundle holds the rollout where it is."""
    rollout, actions = advance(a_rollout(phase), seen(health), Verdict.PASS)
    assert (rollout.phase, rollout.step, actions) == (phase, 0, ())
    assert rollout.message.startswith("waits for")


def test_gateways_that_do_not_report_never_promote() -> None:
    """Readiness alone is not enough to call a plan followed."""
    rollout, actions = advance(a_rollout(Phase.PROMOTING), seen(followed_epoch=None))
    assert (rollout.phase, actions) == (Phase.PROMOTING, ())


def test_an_undecided_step_holds_with_the_reason() -> None:
    """Which is what no evidence is."""
    rollout, actions = advance(a_rollout(Phase.CANARY), seen())
    assert (rollout.phase, rollout.reason, actions) == (Phase.CANARY, Reason.NO_DATA, ())
    assert "undecided" in rollout.message


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.PROMOTING])
def test_waiting_ends_in_an_abort_that_says_for_what(phase: Phase) -> None:
    """A fleet that does not get there in time."""
    late = seen(Health.LOADING, now_ms=TIMEOUT_MS + 1)
    rollout, _ = advance(a_rollout(phase), late)
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.LATE)
    assert "b2 loading" in rollout.message


def test_a_bundle_that_is_ready_late_is_still_promoted() -> None:
    """The deadline is for what is missing, not for an operator who was away."""
    rollout, _ = advance(a_rollout(Phase.PREPARING), seen(now_ms=TIMEOUT_MS * 100))
    assert rollout.phase is Phase.PROMOTING


def test_trying_again_starts_the_clock_of_the_phase_anew() -> None:
    """And nothing else."""
    again = retry(a_rollout(Phase.PREPARING), now_ms=50_000)
    assert (again.phase, again.since_ms) == (Phase.PREPARING, 50_000)
    assert advance(again, seen(Health.LOADING, now_ms=50_001))[0].phase is Phase.PREPARING


@pytest.mark.parametrize("phase", UNFINISHED)
def test_from_every_unfinished_phase_abort_leads_all_traffic_to_a_healthy_bundle(
    phase: Phase,
) -> None:
    """One arm, the old stable bundle, at an epoch above every other."""
    rollout, actions = abort(a_rollout(phase), seen(), Reason.OPERATOR, "stop")
    assert (rollout.phase, rollout.reason, rollout.message) == (
        Phase.ABORTED,
        Reason.OPERATOR,
        "stop",
    )
    assert actions[0] == SetPlan(TrafficPlan.single("b1", 6, "r1"))


@pytest.mark.parametrize("stable", [Health.FAILED, Health.UNKNOWN, Health.LOADING])
def test_an_abort_while_promoting_halts_if_the_old_bundle_is_not_healthy(stable: Health) -> None:
    """Traffic stays where it is, and the record says what to do."""
    rollout, actions = abort(
        a_rollout(Phase.PROMOTING), seen(stable=stable), Reason.OPERATOR, "stop"
    )
    assert (rollout.phase, rollout.reason, actions) == (Phase.PROMOTING, Reason.HALTED, ())
    assert "halted" in rollout.message
    assert "canary retry" in rollout.message


def test_pausing_holds_the_shares_and_resuming_sets_them_again() -> None:
    """Only a canary step can be paused."""
    paused = pause(a_rollout(Phase.CANARY, step=1), 7, "lunch")
    assert (paused.phase, paused.step, actions_of(paused)) == (Phase.PAUSED, 1, ())
    assert advance(paused, seen(), Verdict.PASS) == (paused, ())
    resumed, actions = resume(paused, seen())
    assert (resumed.phase, resumed.step, resumed.epoch) == (Phase.CANARY, 1, 6)
    assert actions == actions_of(resumed)
    preparing = a_rollout(Phase.PREPARING)
    assert pause(preparing, 7, "lunch") == preparing
    assert resume(preparing, seen()) == (preparing, ())


observations = st.builds(
    Observation,
    st.integers(0, 10**6),
    st.integers(0, 50),
    st.builds(BundleHealth, st.sampled_from(Health), st.just("x")),
    st.builds(BundleHealth, st.sampled_from(Health), st.just("x")),
    st.none() | st.integers(0, 60),
)
turns = st.lists(
    st.tuples(observations, st.sampled_from(Verdict), st.sampled_from("aaaaaxpr")), max_size=30
)


def one_turn(
    rollout: Rollout, now: Observation, verdict: Verdict, verb: str
) -> tuple[Rollout, tuple[Action, ...]]:
    """The controller's turn, or an operator's word in between."""
    match verb:
        case "x":
            return abort(rollout, now, Reason.OPERATOR, "stop")
        case "p":
            return pause(rollout, now.now_ms, "wait"), ()
        case "r":
            return resume(rollout, now)
        case _:
            return advance(rollout, now, verdict)


@settings(max_examples=50, deadline=None)
@given(turns, st.sampled_from([(), (0.1,), (0.05, 0.5)]))
def test_no_history_of_turns_breaks_a_rule(
    history: list[tuple[Observation, Verdict, str]], steps: tuple[float, ...]
) -> None:
    """Shares sum to one, epochs only grow, what finished stays, promotion needs a ready fleet."""
    rollout = a_rollout(steps=steps)
    for now, verdict, verb in history:
        before = rollout
        rollout, actions = one_turn(before, now, verdict, verb)
        if before.is_closed:
            assert (rollout, actions) == (before, ())
        if before.is_finished:
            assert rollout == before
        if rollout.phase is Phase.PROMOTED and before.phase is not Phase.PROMOTED:
            assert now.candidate.health is Health.READY
            assert now.followed_epoch is not None
            assert now.followed_epoch >= rollout.epoch
        for action in actions:
            if isinstance(action, SetPlan):
                assert sum(arm.share for arm in action.plan.arms) == pytest.approx(1.0)
                assert before == rollout or action.plan.epoch > max(before.epoch, now.plan_epoch)
        assert actions in {(), actions_of(rollout)}
        assert Rollout.from_json(rollout.to_json()) == rollout
        if actions:
            assert advance(rollout, now, verdict) == (rollout, actions), "a replay changes nothing"
            rollout = settled(rollout)


def test_a_record_of_another_shape_is_a_store_error() -> None:
    """Not a crash."""
    with pytest.raises(StoreError, match="cannot be read"):
        Rollout.from_json({"rollout_id": 3})


def promoted(old: str, new: str, *, is_undo: bool = False) -> Rollout:
    """A promotion of the past."""
    return a_rollout(Phase.PROMOTED, stable_id=old, bundle_id=new, is_undo=is_undo)


@pytest.mark.parametrize(
    ("rollouts", "stable_id", "expected"),
    [
        ([], "b1", ()),
        ([promoted("b1", "b2")], "b2", ("b1",)),
        ([promoted("b1", "b2"), promoted("b2", "b3")], "b3", ("b2", "b1")),
        ([promoted("b1", "b2"), a_rollout(Phase.ABORTED, bundle_id="b9")], "b2", ("b1",)),
        (
            [promoted("b1", "b2"), promoted("b2", "b3"), promoted("b3", "b2", is_undo=True)],
            "b2",
            ("b1",),
        ),
        ([promoted("b1", "b2"), promoted("b2", "b1")], "b1", ("b2",)),
        ([promoted("b1", "b2")], "b0", ("b2", "b1")),
    ],
)
def test_the_line_of_stable_bundles_forgets_what_was_undone(
    rollouts: list[Rollout], stable_id: str, expected: tuple[str, ...]
) -> None:
    """So that undoing twice goes back twice, not back and forth."""
    assert earlier_stables(rollouts, stable_id) == expected


def a_row(stage: str, name: str, state: str = "ready", **changes: object) -> Readiness:
    """A fresh readiness row for b2."""
    row = Readiness(name, stage, "b2", state, "golden answers differ", 3, 10_000)  # type: ignore[arg-type]
    return replace(row, **changes)  # type: ignore[arg-type]


EXPECTED = {"gateway": 2, "scorer": 1}
FLEET = [a_row("gateway", "g1"), a_row("gateway", "g2"), a_row("scorer", "s1")]


def test_the_expected_fleet_follows_the_placement() -> None:
    """Fused stages are not replicas of their own."""
    assert expected_replicas(Settings()) == {
        "gateway": 1,
        "scorer": 1,
        "shard-000": 1,
        "shard-001": 1,
        "ordering": 1,
    }
    fused = Settings(serve=ServeSettings(placement="fused", gateway_replicas=2))
    assert expected_replicas(fused) == {"gateway": 2}


def test_a_bundle_is_ready_when_every_expected_replica_says_so() -> None:
    """And unknown when nobody says anything."""
    assert bundle_health(FLEET, EXPECTED, "b2", 12_000) == BundleHealth(Health.READY)
    assert bundle_health([], EXPECTED, "b2", 12_000).health is Health.UNKNOWN


@pytest.mark.parametrize(
    "rows",
    [
        FLEET[:2],
        [*FLEET, a_row("scorer", "s2", "loading")],
        [*FLEET, a_row("gateway", "g3", bundle_id="b1")],
        [*FLEET[:2], a_row("scorer", "s1", heartbeat_ms=5_000)],
        [*FLEET[:2], a_row("scorer", "s1", "failed", heartbeat_ms=5_000)],
    ],
    ids=["missing", "one more loads", "one holds another", "silent", "refused and then silent"],
)
def test_a_replica_that_is_missing_silent_or_loading_is_waited_for(rows: list[Readiness]) -> None:
    """Every living replica counts, also beyond the expected number."""
    health = bundle_health(rows, EXPECTED, "b2", 12_000)
    assert health.health is Health.LOADING
    assert "b2 on " in health.message


def test_one_refusal_is_enough_and_is_named() -> None:
    """With the replica and its reason."""
    rows = [*FLEET[:2], a_row("scorer", "s1", "failed")]
    health = bundle_health(rows, EXPECTED, "b2", 12_000)
    assert health == BundleHealth(
        Health.FAILED, "scorer replica s1 refused b2: golden answers differ"
    )


def test_the_followed_epoch_is_the_slowest_gateways() -> None:
    """And unknown while a gateway is missing; other stages follow no plan."""
    rows = [*FLEET, a_row("scorer", "s2", plan_epoch=0)]
    rows[1] = replace(rows[1], plan_epoch=2)
    assert followed_epoch(rows, EXPECTED, 12_000) == 2
    assert followed_epoch(rows[1:], EXPECTED, 12_000) is None
