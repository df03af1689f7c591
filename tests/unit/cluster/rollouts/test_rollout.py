"""The rollout state machine: each rule of the design as a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rollouts.deciding.observation import (
    bundle_health,
    by_our_clock,
    expected_replicas,
    followed_epoch,
    with_skew,
)
from cluster.rollouts.deciding.rollout import (
    abort,
    actions_of,
    advance,
    pause,
    promote,
    resume,
    retry,
    skip,
)
from cluster.rollouts.deciding.rollout_plan import (
    OnShadowTimeout,
    OnTimeout,
    PlanStep,
    RolloutPlan,
)
from cluster.rollouts.deciding.rollout_record import (
    BundleHealth,
    ClearShadow,
    Health,
    Observation,
    Phase,
    Reason,
    Release,
    Require,
    Rollout,
    SetAlias,
    SetPlan,
    SetShadow,
    Shadowing,
    earlier_stables,
)
from cluster.rollouts.deciding.rollout_turn import RecordedTurn, Turn, Verb, decide, plain, replay
from recsys.clock_skew import Beat, follow_beats, skewed
from recsys.errors import StoreError
from recsys.evidence.comparison import Verdict
from recsys.evidence.judgement import Judgement
from recsys.settings import ServeSettings, Settings
from recsys.stores.control.control import Readiness
from recsys.traffic import TrafficPlan
from tests.rollouts_for_tests import shadow_sums

TIMEOUT_MS = 10_000
UNFINISHED = [phase for phase in Phase if phase not in {Phase.PROMOTED, Phase.ABORTED}]


def a_plan(steps: tuple[float, ...], **changes: object) -> RolloutPlan:
    """A plan of these shares, whose steps need no time unless said otherwise."""
    return RolloutPlan("p", tuple(PlanStep(share, **changes) for share in steps))  # type: ignore[arg-type]


def judged(verdict: Verdict) -> Judgement:
    """A judgement that says this."""
    return Judgement(verdict, "error_rate", f"so it is a {verdict}", (), None, {})


def a_rollout(phase: Phase = Phase.STARTING, **changes: object) -> Rollout:
    """A rollout of b2 over b1, settled in its phase, with a plan for its steps."""
    is_stepping = phase in {Phase.CANARY, Phase.PAUSED}
    steps = changes.pop("steps", (0.1, 0.5) if is_stepping else ())
    changes.setdefault("plan", a_plan(steps))  # type: ignore[arg-type]
    rollout = Rollout(
        rollout_id="r1",
        bundle_id="b2",
        stable_id="b1",
        plan_name="instant",
        steps=steps,  # type: ignore[arg-type]
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
    rollout, actions = advance(settled(rollout), seen(), judged(Verdict.PASS))
    assert (rollout.phase, rollout.step, rollout.epoch) == (Phase.CANARY, 1, 7)
    rollout, actions = advance(settled(rollout), seen(), judged(Verdict.PASS))
    assert (rollout.phase, rollout.epoch) == (Phase.PROMOTING, 8)


def test_a_failed_step_leads_traffic_back_before_the_bundle_is_let_go() -> None:
    """The order of the actions is the order they are done in."""
    rollout, actions = advance(a_rollout(Phase.CANARY), seen(), judged(Verdict.FAIL))
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.EVIDENCE)
    assert actions == (SetPlan(TrafficPlan.single("b1", 6, "r1")), Release(("b1", "b0"), 6))


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.CANARY, Phase.PROMOTING])
def test_a_replica_that_refuses_the_bundle_aborts_with_its_reason(phase: Phase) -> None:
    """Whatever else was seen."""
    rollout, _ = advance(a_rollout(phase), seen(Health.FAILED), judged(Verdict.PASS))
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.REFUSED)
    assert rollout.message == "b2 failed"


@pytest.mark.parametrize("health", [Health.UNKNOWN, Health.LOADING])
@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.CANARY, Phase.PROMOTING])
def test_no_data_never_promotes(phase: Phase, health: Health) -> None:
    """A fleet that says nothing of the bundle holds the rollout where it is."""
    rollout, actions = advance(a_rollout(phase), seen(health), judged(Verdict.PASS))
    assert (rollout.phase, rollout.step, actions) == (phase, 0, ())
    assert rollout.message.startswith("waits for")


def test_gateways_that_do_not_report_never_promote() -> None:
    """Readiness alone is not enough to call a plan followed."""
    rollout, actions = advance(a_rollout(Phase.PROMOTING), seen(followed_epoch=None))
    assert (rollout.phase, actions) == (Phase.PROMOTING, ())


def test_an_undecided_step_holds_with_the_reason() -> None:
    """Which no evidence is, too."""
    rollout, actions = advance(a_rollout(Phase.CANARY), seen())
    assert (rollout.phase, rollout.reason, actions) == (Phase.CANARY, Reason.NO_DATA, ())
    assert rollout.message == "step 1 of 2 is undecided: no evidence yet"
    undecided = judged(Verdict.INCONCLUSIVE)
    rollout, actions = advance(a_rollout(Phase.CANARY), seen(), undecided)
    assert (rollout.phase, rollout.reason, actions) == (Phase.CANARY, Reason.UNDECIDED, ())
    assert rollout.judgement == undecided.to_json()


def test_a_step_that_passes_lasts_its_shortest_time_and_says_so() -> None:
    """And the window of labels where reactions are judged."""
    plan = a_plan((0.1, 0.5), min_s=60.0)
    early, _ = advance(a_rollout(Phase.CANARY, plan=plan), seen(), judged(Verdict.PASS))
    assert (early.phase, early.step, early.reason) == (Phase.CANARY, 0, Reason.STEP_TIME)
    passed, _ = advance(early, seen(now_ms=60_000), judged(Verdict.PASS))
    assert (passed.step, passed.reason) == (1, Reason.PASSED)
    reacting = replace(a_plan((0.1, 0.5), metrics=("ctr",)), label_window_s=120.0)
    early, _ = advance(
        a_rollout(Phase.CANARY, plan=reacting), seen(now_ms=60_000), judged(Verdict.PASS)
    )
    assert (early.step, early.reason) == (0, Reason.STEP_TIME)


@pytest.mark.parametrize(
    ("on_timeout", "phase"), [(OnTimeout.HOLD, Phase.CANARY), (OnTimeout.ABORT, Phase.ABORTED)]
)
def test_a_step_that_stays_undecided_ends_as_its_plan_says(
    on_timeout: OnTimeout, phase: Phase
) -> None:
    """Never by going on."""
    plan = a_plan((0.1, 0.5), max_s=60.0, on_timeout=on_timeout)
    rollout, _ = advance(a_rollout(Phase.CANARY, plan=plan), seen(now_ms=60_001))
    assert rollout.phase is phase
    assert "longest time of 60 s is over" in rollout.message


def test_the_first_user_comes_once_the_evidence_can_be_read() -> None:
    """Nobody is answered by a bundle that cannot be judged."""
    blind = replace(seen(), evidence_problem="the disk is gone")
    preparing = a_rollout(Phase.PREPARING, steps=(0.1,))
    held, _ = advance(preparing, blind)
    assert (held.phase, held.message) == (Phase.PREPARING, "waits for the disk is gone")
    opened, _ = advance(preparing, seen())
    assert (opened.phase, opened.opened_ms) == (Phase.CANARY, 1_000)
    later, _ = advance(settled(opened), seen(), judged(Verdict.PASS))
    assert later.opened_ms == opened.opened_ms


def test_an_operator_may_skip_a_step_and_promote_without_evidence() -> None:
    """The record says that nobody judged it; nothing skips the last step but a promotion."""
    at_first = a_rollout(Phase.CANARY)
    skipped, actions = skip(at_first, seen(), "ann knows")
    assert (skipped.step, skipped.reason, skipped.message) == (1, Reason.SKIPPED, "ann knows")
    assert actions == actions_of(skipped)
    assert skip(settled(skipped), seen(), "again") == (settled(skipped), ())
    forced, _ = promote(at_first, seen(), Reason.FORCED, "ann knows")
    assert (forced.phase, forced.reason) == (Phase.PROMOTING, Reason.FORCED)
    loading = seen(Health.LOADING)
    assert promote(at_first, loading, Reason.FORCED, "now") == (at_first, ())
    finished = a_rollout(Phase.PROMOTED)
    assert promote(finished, seen(), Reason.FORCED, "now") == (finished, ())


def test_a_record_of_before_there_were_plans_still_reads() -> None:
    """With its steps, and no evidence can pass them."""
    document = a_rollout(Phase.CANARY).to_json()
    for name in (
        "plan",
        "opened_ms",
        "judgement",
        "shadow",
        "shadow_judgement",
        "halted_by",
        "halted_for",
    ):
        del document[name]
    old = Rollout.from_json(document)
    assert (old.plan, old.steps) == (None, (0.1, 0.5))
    held, _ = advance(old, seen(), judged(Verdict.PASS))
    assert (held.phase, held.step) == (Phase.CANARY, 0)


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
    assert (paused.phase, paused.step, actions_of(paused)) == (
        Phase.PAUSED,
        1,
        (SetPlan(actions_of(a_rollout(Phase.CANARY, step=1))[0].plan),),  # type: ignore[union-attr]
    )
    assert advance(paused, seen(), judged(Verdict.PASS)) == (paused, ())
    resumed, actions = resume(paused, seen())
    assert (resumed.phase, resumed.step, resumed.epoch) == (Phase.CANARY, 1, 6)
    assert actions == actions_of(resumed)
    preparing = a_rollout(Phase.PREPARING)
    assert pause(preparing, 7, "lunch") == preparing
    assert resume(preparing, seen()) == (preparing, ())


def test_what_passed_a_step_says_nothing_of_the_next() -> None:
    """Evidence of the share before does not promote at this one."""
    at = replace(a_rollout(Phase.CANARY), judgement=judged(Verdict.PASS).to_json())
    moved, _ = advance(at, seen(), judged(Verdict.PASS))
    assert (moved.step, moved.judgement) == (at.step + 1, None)


def test_no_share_grows_while_a_replica_does_not_hold_the_bundle() -> None:
    """A step that is skipped needs every replica, as a promotion does."""
    at = a_rollout(Phase.CANARY)
    for health in (Health.FAILED, Health.UNKNOWN, Health.LOADING):
        refused = replace(seen(), candidate=BundleHealth(health, "x"))
        assert skip(at, refused, "on") == (at, ())
    assert skip(at, seen(), "on")[0].step == at.step + 1


def test_a_paused_rollout_that_a_replica_refuses_is_aborted() -> None:
    """Nobody watches a pause, and a refusal is no evidence that might be overruled."""
    at = a_rollout(Phase.PAUSED)
    refused = replace(seen(), candidate=BundleHealth(Health.FAILED, "its index is damaged"))
    aborted, actions = advance(at, refused)
    assert (aborted.phase, aborted.reason) == (Phase.ABORTED, Reason.REFUSED)
    assert actions == actions_of(aborted)
    assert advance(at, seen()) == (at, ())


def test_a_clock_that_was_set_back_only_begins_the_wait_anew() -> None:
    """Not an hour of waiting for the clock to catch up."""
    at = replace(a_rollout(Phase.CANARY), since_ms=3_600_000)
    held, _ = advance(at, replace(seen(), now_ms=1_000))
    assert held.since_ms == 1_000


def a_shadowed(shadow: Shadowing = Shadowing.RUNNING, **plan: object) -> Rollout:
    """A rollout whose answers are compared on copies, ten of them unless said otherwise."""
    changed = replace(a_plan((0.1,)), **{"shadow_requests": 10, "shadow_max_s": 60.0, **plan})  # type: ignore[arg-type]
    return a_rollout(Phase.PREPARING, steps=(0.1,), plan=changed, shadow=shadow)


def copied(n: int, n_failed: int = 0, **changes: object) -> Observation:
    """A turn that sees so many copies."""
    return replace(seen(), shadow=shadow_sums(n, n_failed), **changes)  # type: ignore[arg-type]


def test_answers_are_compared_once_every_replica_holds_the_bundle() -> None:
    """With copies, then without, and only then with users."""
    fresh = a_shadowed(Shadowing.NONE)
    held, _ = advance(fresh, seen(Health.LOADING))
    assert held.shadow is Shadowing.NONE
    running, actions = advance(fresh, seen())
    shadow = SetShadow("r1", "b2", 0.2, 0)
    assert (running.phase, running.shadow) == (Phase.PREPARING, Shadowing.RUNNING)
    assert actions == (Require(("b1", "b0", "b2")), shadow)
    over, actions = advance(settled(running), copied(12))
    assert (over.phase, over.shadow, over.reason) == (
        Phase.PREPARING,
        Shadowing.OVER,
        Reason.PASSED,
    )
    assert actions == (Require(("b1", "b0", "b2")), ClearShadow(shadow, over.message))
    opened, actions = advance(settled(over), seen())
    assert (opened.phase, opened.step) == (Phase.CANARY, 0)
    assert all(isinstance(action, SetPlan) for action in actions)


def test_a_shadow_that_fails_aborts_and_is_cleared() -> None:
    """Before the first user."""
    aborted, actions = advance(a_shadowed(), copied(40, n_failed=30))
    assert (aborted.phase, aborted.reason) == (Phase.ABORTED, Reason.EVIDENCE)
    assert [type(action) for action in actions] == [SetPlan, ClearShadow, Release]
    assert aborted.shadow_judgement is not None
    assert aborted.shadow_judgement["deciding"] == "failed_share"


@pytest.mark.parametrize(
    ("on_timeout", "phase", "shadow"),
    [
        (OnShadowTimeout.GO_ON, Phase.PREPARING, Shadowing.OVER),
        (OnShadowTimeout.HOLD, Phase.PREPARING, Shadowing.RUNNING),
        (OnShadowTimeout.ABORT, Phase.ABORTED, Shadowing.RUNNING),
    ],
)
@pytest.mark.parametrize("sums", [None, 0, 3])
def test_a_comparison_without_answers_ends_as_its_plan_says(
    sums: int | None, on_timeout: OnShadowTimeout, phase: Phase, shadow: Shadowing
) -> None:
    """Not before its longest time, and never as a pass."""
    now = seen() if sums is None else copied(sums)
    rollout = a_shadowed(on_shadow_timeout=on_timeout)
    early, actions = advance(rollout, replace(now, now_ms=60_000))
    assert (early.phase, early.shadow, actions) == (Phase.PREPARING, Shadowing.RUNNING, ())
    late, _ = advance(early, replace(now, now_ms=60_001))
    assert (late.phase, late.shadow) == (phase, shadow)
    assert late.reason is not Reason.PASSED
    assert "longest time of 60 s is over" in late.message


@pytest.mark.parametrize("health", [Health.LOADING, Health.UNKNOWN])
def test_a_replica_that_is_lost_while_answers_are_compared_is_waited_for(health: Health) -> None:
    """A pass needs every replica."""
    now = replace(copied(12), candidate=BundleHealth(health, "x"))
    held, actions = advance(a_shadowed(), now)
    assert (held.shadow, held.reason, actions) == (Shadowing.RUNNING, Reason.NO_DATA, ())
    refused = replace(copied(12), candidate=BundleHealth(Health.FAILED, "x"))
    assert advance(a_shadowed(), refused)[0].reason is Reason.REFUSED
    failing = replace(copied(40, n_failed=30), candidate=BundleHealth(health, "x"))
    assert advance(a_shadowed(), failing)[0].phase is Phase.PREPARING


def test_a_turn_that_an_earlier_release_recorded_decides_as_it_did() -> None:
    """It holds sums that nothing reads any more."""
    turn = Turn(Verb.ADVANCE, 1_000, seen())
    document = turn.to_json()
    document["observation"] |= {"totals": {"since_ms": 0, "arms": {}}}
    assert Turn.from_json(document) == turn


def test_an_operator_may_end_the_comparison_and_an_abort_clears_it() -> None:
    """The first users come with the next turn, once the evidence can be read."""
    skipped, actions = skip(a_shadowed(), seen(), "ann knows")
    assert (skipped.phase, skipped.shadow, skipped.reason) == (
        Phase.PREPARING,
        Shadowing.OVER,
        Reason.SKIPPED,
    )
    assert isinstance(actions[-1], ClearShadow)
    for shadow in (Shadowing.RUNNING, Shadowing.OVER):
        _, actions = abort(a_shadowed(shadow), seen(), Reason.OPERATOR, "stop")
        assert isinstance(actions[1], ClearShadow)
    assert retry(a_shadowed(), now_ms=9).since_ms == 9


def test_a_halted_rollout_goes_back_once_the_old_bundle_is_healthy() -> None:
    """As was decided when it halted."""
    ill = seen(Health.FAILED, stable=Health.UNKNOWN)
    halted, _ = advance(a_rollout(Phase.PROMOTING), ill)
    assert (halted.reason, halted.halted_by) == (Reason.HALTED, Reason.REFUSED)
    assert advance(halted, ill) == (halted, ())
    back, actions = advance(halted, seen(Health.FAILED))
    assert (back.phase, back.reason, back.halted_by) == (Phase.ABORTED, Reason.REFUSED, None)
    assert back.message == "b2 failed; b1 is healthy again"
    assert actions[0] == SetPlan(TrafficPlan.single("b1", 6, "r1"))


def test_a_halted_rollout_goes_on_once_the_new_bundle_is_healthy_unless_a_person_said_no() -> None:
    """And only when every gateway follows."""
    ill = seen(Health.FAILED, stable=Health.UNKNOWN)
    halted, _ = advance(a_rollout(Phase.PROMOTING), ill)
    assert advance(halted, seen(stable=Health.UNKNOWN, followed_epoch=4)) == (halted, ())
    on, _ = advance(halted, seen(stable=Health.UNKNOWN))
    assert (on.phase, on.reason) == (Phase.PROMOTED, Reason.FOLLOWED)
    refused, _ = abort(halted, ill, Reason.OPERATOR, "stop")
    assert advance(refused, seen(stable=Health.UNKNOWN)) == (refused, ())
    old = replace(halted, halted_by=None, halted_for="")
    assert advance(old, seen())[0].phase is Phase.ABORTED


observations = st.builds(
    Observation,
    st.integers(0, 10**6),
    st.integers(0, 50),
    st.builds(BundleHealth, st.sampled_from(Health), st.just("x")),
    st.builds(BundleHealth, st.sampled_from(Health), st.just("x")),
    st.none() | st.integers(0, 60),
    st.sampled_from(["", "the evidence cannot be read"]),
    st.none()
    | st.builds(
        lambda n, failed: shadow_sums(n, min(n, failed)), st.integers(0, 60), st.integers(0, 60)
    ),
)
VERBS = (*[Verb.ADVANCE] * 6, *[verb for verb in Verb if verb not in {Verb.START, Verb.SETTLED}])
turns = st.lists(
    st.builds(
        lambda seen, verdict, verb: Turn(
            verb, seen.now_ms, seen, judged(verdict) if verdict else None, Reason.FORCED, "word"
        ),
        observations,
        st.none() | st.sampled_from(Verdict),
        st.sampled_from(VERBS),
    ),
    max_size=30,
)


def check_move(before: Rollout, after: Rollout, turn: Turn) -> None:
    """What holds of every move, whoever made it."""
    now = turn.seen
    assert now is not None
    if before.is_finished:
        assert after == before
    assert after.epoch >= before.epoch
    if after.phase is Phase.PROMOTED and before.phase is not Phase.PROMOTED:
        assert now.candidate.health is Health.READY
        assert now.followed_epoch is not None
        assert now.followed_epoch >= after.epoch
    if turn.verb is Verb.ADVANCE and before.phase is Phase.CANARY and after.step > before.step:
        assert turn.judgement is not None
        assert turn.judgement.verdict is Verdict.PASS
    if turn.verb is Verb.ABORT and before.phase not in {Phase.PROMOTING, *FINISHED}:
        assert after.phase is Phase.ABORTED
    check_shadow(before, after)
    for action in actions_of(after):
        if isinstance(action, SetPlan):
            assert sum(arm.share for arm in action.plan.arms) == pytest.approx(1.0)
            moved = (before.phase, before.step) != (after.phase, after.step)
            if moved and after.phase is not Phase.PAUSED:
                assert action.plan.epoch > max(before.epoch, now.plan_epoch)


def check_shadow(before: Rollout, after: Rollout) -> None:
    """Copies are made in the comparison alone, and end in whatever way it is left."""
    if before.shadow is Shadowing.RUNNING and after.shadow is Shadowing.OVER:
        assert any(isinstance(action, ClearShadow) for action in actions_of(after))
    if after.phase is Phase.ABORTED and after.shadow is not Shadowing.NONE:
        assert any(isinstance(action, ClearShadow) for action in actions_of(after))
    if after.plan is not None and after.plan.shadow_requests and after.phase in STEPPING:
        assert after.shadow is Shadowing.OVER, "no user before the comparison"
    if any(isinstance(action, SetShadow) for action in actions_of(after)):
        assert (after.phase, after.shadow) == (Phase.PREPARING, Shadowing.RUNNING)


FINISHED = (Phase.PROMOTED, Phase.ABORTED)
STEPPING = (Phase.CANARY, Phase.PAUSED)
shadow_plans = st.builds(
    dict,
    shadow_requests=st.sampled_from([0, 10]),
    shadow_max_s=st.sampled_from([1.0, 500.0]),
    on_shadow_timeout=st.sampled_from(OnShadowTimeout),
    min_overlap=st.sampled_from([None, 0.3, 0.9]),
)


@settings(max_examples=50, deadline=None)
@given(turns, st.sampled_from([(), (0.1,), (0.05, 0.5)]), shadow_plans)
def test_no_history_of_turns_breaks_a_rule(
    history: list[Turn], steps: tuple[float, ...], shadow: dict[str, Any]
) -> None:
    """Whatever is seen, judged and asked for; and its recorded turns lead to the same records."""
    shadow = shadow if steps else {}
    rollout = a_rollout(steps=steps, plan=replace(a_plan(steps), **shadow))
    recorded = [RecordedTurn("r1", 1, "ann", Turn(Verb.START, 0), rollout)]
    for turn in history:
        before, rollout = rollout, decide(rollout, turn)
        check_move(before, rollout, turn)
        assert Rollout.from_json(plain(rollout)) == rollout
        read = Turn.from_json(turn.to_json())
        recorded.append(RecordedTurn("r1", len(recorded) + 1, "ann", read, rollout))
        if not rollout.is_settled:
            again, actions = advance(rollout, turn.seen, turn.judgement)  # type: ignore[arg-type]
            assert (again, actions) == (rollout, actions_of(rollout)), "a replay changes nothing"
            done = Turn(Verb.SETTLED, 0)
            rollout = decide(rollout, done)
            recorded.append(RecordedTurn("r1", len(recorded) + 1, "ann", done, rollout))
    assert replay(recorded) == ()


def test_a_record_that_was_tampered_with_does_not_replay() -> None:
    """The turn is named, with both records."""
    start = a_rollout()
    forged = a_rollout(Phase.PROMOTED)
    turns = [
        RecordedTurn("r1", 1, "ann", Turn(Verb.START, 0), start),
        RecordedTurn("r1", 2, "ann", Turn(Verb.ADVANCE, 1_000, seen()), forged),
    ]
    found = replay(turns)
    assert [(one.number, one.recorded.phase, one.replayed.phase) for one in found] == [
        (2, Phase.PROMOTED, Phase.PREPARING)
    ]


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


@pytest.mark.parametrize("offset_ms", [-30_000, 30_000])
def test_a_replica_whose_clock_is_off_lives_while_its_heartbeat_moves(offset_ms: int) -> None:
    """And is named where something is waited for; who stands still is dead, whatever its clock."""
    beats: dict[str, Beat] = {}
    rows: list[Readiness] = []
    for now_ms in (10_000_000, 10_001_000):
        before = rows
        rows = [replace(row, heartbeat_ms=now_ms + offset_ms) for row in FLEET]
        beats = follow_beats(beats, rows, now_ms)
    ours = by_our_clock(rows, beats, now_ms)
    assert bundle_health(ours, EXPECTED, "b2", now_ms).health is Health.READY
    later_ms = now_ms + 6_000
    still = by_our_clock(rows, follow_beats(beats, rows, later_ms), later_ms)
    assert bundle_health(still, EXPECTED, "b2", later_ms).health is Health.UNKNOWN
    waiting = bundle_health(ours[:2], EXPECTED, "b2", now_ms)
    told = with_skew(waiting, skewed(before, rows, now_ms, period_ms=1_000))
    where = "30 s ahead" if offset_ms > 0 else "30 s behind"
    assert f"clocks are off, set them: g1 {where}, g2 {where}" in told.message


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
