"""One rollout as a state machine: pure, without clock, store or fleet.

A transition returns the next record, which is stored first, and the actions that make the fleet
match it, each safe to repeat.
"""

from __future__ import annotations

from dataclasses import replace

from cluster.rollouts.deciding.rollout_plan import OnTimeout
from cluster.rollouts.deciding.rollout_record import (
    Action,
    Health,
    Observation,
    Phase,
    Reason,
    Release,
    Require,
    Rollout,
    SetAlias,
    SetPlan,
)
from recsys.evidence.comparison import Verdict
from recsys.evidence.judgement import Judgement
from recsys.traffic import BASELINE, CANARY, STABLE, Arm, TrafficPlan

JUDGED = frozenset({Phase.CANARY})
"""Phases in which evidence is asked for."""
_STEPPING = frozenset({Phase.CANARY, Phase.PAUSED})


def actions_of(rollout: Rollout) -> tuple[Action, ...]:
    """What makes the fleet match the record; the same record always asks for the same."""
    match rollout.phase:
        case Phase.PREPARING:
            ids = (rollout.stable_id, *rollout.resident_before, rollout.bundle_id)
            return (Require(tuple(dict.fromkeys(ids))),)
        case Phase.CANARY | Phase.PAUSED | Phase.PROMOTING:
            return (SetPlan(_plan(rollout)),)
        case Phase.PROMOTED:
            return (
                SetAlias(STABLE, rollout.bundle_id, instead_of=rollout.stable_id),
                Release(rollout.resident_after, rollout.epoch),
            )
        case Phase.ABORTED:
            ids = (rollout.stable_id, *rollout.resident_before)
            keep = tuple(dict.fromkeys(ids))
            return (SetPlan(_plan(rollout)), Release(keep, rollout.epoch))
        case _:
            return ()


def advance(
    rollout: Rollout, seen: Observation, judgement: Judgement | None = None
) -> tuple[Rollout, tuple[Action, ...]]:
    """One turn: the next record and what it asks for.

    A record whose actions are not known to be done asks for them again and goes nowhere.
    """
    if not rollout.is_settled:
        return rollout, actions_of(rollout)
    match rollout.phase:
        case Phase.STARTING:
            return _enter(
                rollout, seen, Phase.PREPARING, Reason.LOADING, "replicas load the bundle"
            )
        case Phase.PREPARING | Phase.CANARY | Phase.PROMOTING:
            if seen.candidate.health is Health.FAILED:
                return abort(rollout, seen, Reason.REFUSED, seen.candidate.message)
            # A clock that was set back, or another controller's: what waits begins anew.
            rollout = replace(rollout, since_ms=min(rollout.since_ms, seen.now_ms))
            if rollout.phase is Phase.CANARY:
                return _judge(rollout, seen, judgement)
            return _await_fleet(rollout, seen)
        case Phase.PAUSED if seen.candidate.health is Health.FAILED:
            return abort(rollout, seen, Reason.REFUSED, seen.candidate.message)
        case _:
            return rollout, ()


def abort(
    rollout: Rollout, seen: Observation, reason: Reason, message: str
) -> tuple[Rollout, tuple[Action, ...]]:
    """Lead all traffic back to the old bundle, unless neither bundle is known to be healthy."""
    if rollout.is_finished:
        return rollout, ()
    if rollout.phase is Phase.PROMOTING and seen.stable.health is not Health.READY:
        stuck = (
            f"halted: cannot go on ({message}) and cannot go back, because {rollout.stable_id} "
            f"is not known to be healthy ({seen.stable.message or seen.stable.health}); mend the "
            "replicas, then run 'cluster canary retry' or 'cluster canary abort'"
        )
        return replace(rollout, reason=Reason.HALTED, message=stuck), ()
    return _enter(rollout, seen, Phase.ABORTED, reason, message)


def pause(rollout: Rollout, now_ms: int, message: str) -> Rollout:
    """Hold a canary step with its present shares; anything else stays as it is."""
    if rollout.phase is not Phase.CANARY:
        return rollout
    return replace(
        rollout, phase=Phase.PAUSED, reason=Reason.OPERATOR, message=message, since_ms=now_ms
    )


def resume(
    rollout: Rollout, seen: Observation, message: str = "resumed"
) -> tuple[Rollout, tuple[Action, ...]]:
    """Go on with a paused step, which gets its whole time again."""
    if rollout.phase is not Phase.PAUSED:
        return rollout, ()
    return _enter(rollout, seen, Phase.CANARY, Reason.OPERATOR, message, step=rollout.step)


def skip(rollout: Rollout, seen: Observation, message: str) -> tuple[Rollout, tuple[Action, ...]]:
    """Go on to the next share without a verdict; the last step is left by a promotion alone."""
    is_held = seen.candidate.health is Health.READY
    if rollout.phase not in _STEPPING or rollout.step + 1 >= len(rollout.steps) or not is_held:
        return rollout, ()
    return _enter(rollout, seen, Phase.CANARY, Reason.SKIPPED, message, step=rollout.step + 1)


def promote(
    rollout: Rollout, seen: Observation, reason: Reason, message: str
) -> tuple[Rollout, tuple[Action, ...]]:
    """Give all traffic to a canary that every replica holds; anything else stays as it is."""
    if rollout.phase not in _STEPPING or seen.candidate.health is not Health.READY:
        return rollout, ()
    return _enter(rollout, seen, Phase.PROMOTING, reason, message, step=len(rollout.steps))


def retry(rollout: Rollout, now_ms: int) -> Rollout:
    """Give the present phase its whole time again."""
    if rollout.is_finished:
        return rollout
    return replace(rollout, since_ms=now_ms, reason=Reason.REQUESTED, message="tried again")


def _await_fleet(rollout: Rollout, seen: Observation) -> tuple[Rollout, tuple[Action, ...]]:
    """Preparing waits for the replicas to be ready, promoting for the gateways to follow."""
    is_ready = seen.candidate.health is Health.READY
    waits_for = seen.candidate.message or "replicas that report"
    if rollout.phase is Phase.PREPARING and is_ready:
        if not rollout.steps or seen.totals is not None:
            return _next_step(rollout, seen, "every replica is ready", step=0)
        waits_for = seen.evidence_problem or "the evidence store to be read"
    if rollout.phase is Phase.PROMOTING and is_ready:
        if seen.followed_epoch is not None and seen.followed_epoch >= rollout.epoch:
            return _enter(rollout, seen, Phase.PROMOTED, Reason.FOLLOWED, "every gateway follows")
        waits_for = f"gateways to follow plan epoch {rollout.epoch}"
    waited_ms = seen.now_ms - rollout.since_ms
    if waited_ms > rollout.ready_timeout_ms:
        message = f"waited {waited_ms / 1000:.0f} s in {rollout.phase} for {waits_for}"
        return abort(rollout, seen, Reason.LATE, message)
    no_data = seen.candidate.health is Health.UNKNOWN
    return _hold(rollout, Reason.NO_DATA if no_data else Reason.LOADING, f"waits for {waits_for}")


def _judge(
    rollout: Rollout, seen: Observation, judgement: Judgement | None
) -> tuple[Rollout, tuple[Action, ...]]:
    """What the evidence of the present step decides."""
    if judgement is not None:
        rollout = replace(rollout, judgement=judgement.to_json())
    at = f"step {rollout.step + 1} of {len(rollout.steps)}"
    verdict = Verdict.INCONCLUSIVE if judgement is None else judgement.verdict
    said = seen.evidence_problem or "no evidence yet"
    said = said if judgement is None else judgement.message
    if verdict is Verdict.FAIL:
        return abort(rollout, seen, Reason.EVIDENCE, f"{at} failed: {said}")
    if seen.candidate.health is not Health.READY:
        return _hold(rollout, Reason.NO_DATA, f"waits for {seen.candidate.message or 'replicas'}")
    waited_s = (seen.now_ms - rollout.since_ms) / 1000
    if verdict is Verdict.PASS and rollout.plan is not None:
        least_s = rollout.plan.min_time_s(rollout.step)
        if waited_s >= least_s:
            return _next_step(rollout, seen, f"{at} passed: {said}", step=rollout.step + 1)
        return _hold(
            rollout, Reason.STEP_TIME, f"{at} passes so far, and lasts at least {least_s:g} s"
        )
    return _undecided(rollout, seen, waited_s, judgement is None, f"{at} is undecided: {said}")


def _undecided(
    rollout: Rollout, seen: Observation, waited_s: float, is_silent: bool, message: str
) -> tuple[Rollout, tuple[Action, ...]]:
    step = rollout.present_step
    if step is not None and step.max_s is not None and waited_s > step.max_s:
        message = f"{message}; its longest time of {step.max_s:g} s is over"
        if step.on_timeout is OnTimeout.ABORT:
            return abort(rollout, seen, Reason.UNDECIDED, message)
        message += ", and 'cluster canary step', 'promote --full' or 'abort' ends it"
    return _hold(rollout, Reason.NO_DATA if is_silent else Reason.UNDECIDED, message)


def _next_step(
    rollout: Rollout, seen: Observation, message: str, step: int
) -> tuple[Rollout, tuple[Action, ...]]:
    reason = Reason.PASSED if step else Reason.READY
    phase = Phase.CANARY if step < len(rollout.steps) else Phase.PROMOTING
    if phase is Phase.CANARY and rollout.opened_ms is None:
        rollout = replace(rollout, opening=seen.totals, opened_ms=seen.now_ms)
    return _enter(rollout, seen, phase, reason, message, step=step)


def _enter(
    rollout: Rollout,
    seen: Observation,
    phase: Phase,
    reason: Reason,
    message: str,
    *,
    step: int | None = None,
) -> tuple[Rollout, tuple[Action, ...]]:
    sets_plan = phase in {Phase.CANARY, Phase.PROMOTING, Phase.ABORTED}
    next_step = rollout.step if step is None else step
    is_new_step = phase is Phase.CANARY and next_step != rollout.step
    entered = replace(
        rollout,
        phase=phase,
        step=next_step,
        # What passed the step before says nothing of this one.
        judgement=None if is_new_step else rollout.judgement,
        epoch=max(rollout.epoch, seen.plan_epoch) + 1 if sets_plan else rollout.epoch,
        reason=reason,
        message=message,
        since_ms=seen.now_ms,
        is_settled=False,
    )
    return entered, actions_of(entered)


def _hold(rollout: Rollout, reason: Reason, message: str) -> tuple[Rollout, tuple[Action, ...]]:
    return replace(rollout, reason=reason, message=message), ()


def _plan(rollout: Rollout) -> TrafficPlan:
    """The shares of this phase: canary and baseline are equal slices, stable has the rest."""
    salt = rollout.rollout_id
    if rollout.phase not in _STEPPING:
        bundle_id = rollout.bundle_id if rollout.phase is Phase.PROMOTING else rollout.stable_id
        return TrafficPlan.single(bundle_id, rollout.epoch, salt)
    share = rollout.steps[rollout.step]
    arms = (
        Arm(STABLE, rollout.stable_id, 1.0 - 2.0 * share),
        Arm(BASELINE, rollout.stable_id, share),
        Arm(CANARY, rollout.bundle_id, share),
    )
    return TrafficPlan(rollout.epoch, salt, arms)
