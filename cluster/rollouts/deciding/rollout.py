"""One rollout as a state machine: pure, without clock, store or fleet.

A transition returns the next record, which is stored first, and the actions that make the fleet
match it, each safe to repeat.
"""

from __future__ import annotations

from dataclasses import replace

from cluster.rollouts.deciding.preparing import end_shadow, is_shadowing, prepare
from cluster.rollouts.deciding.rollout_moves import STEPPING, Move, enter, hold, wait_in_time
from cluster.rollouts.deciding.rollout_moves import abort as abort
from cluster.rollouts.deciding.rollout_moves import actions_of as actions_of
from cluster.rollouts.deciding.rollout_moves import next_step as _next_step
from cluster.rollouts.deciding.rollout_plan import OnTimeout
from cluster.rollouts.deciding.rollout_record import Health, Observation, Phase, Reason, Rollout
from recsys.evidence.comparison import Verdict
from recsys.evidence.judgement import Judgement


def advance(rollout: Rollout, seen: Observation, judgement: Judgement | None = None) -> Move:
    """One turn: the next record and what it asks for.

    A record whose actions are not known to be done asks for them again and goes nowhere.
    """
    if not rollout.is_settled:
        return rollout, actions_of(rollout)
    if rollout.reason is Reason.HALTED:
        return _halted(rollout, seen)
    match rollout.phase:
        case Phase.STARTING:
            return enter(rollout, seen, Phase.PREPARING, Reason.LOADING, "replicas load the bundle")
        case Phase.PREPARING | Phase.CANARY | Phase.PROMOTING:
            if seen.candidate.health is Health.FAILED:
                return abort(rollout, seen, Reason.REFUSED, seen.candidate.message)
            # A clock that was set back, or another controller's: what waits begins anew.
            rollout = replace(rollout, since_ms=min(rollout.since_ms, seen.now_ms))
            if rollout.phase is Phase.CANARY:
                return _judge(rollout, seen, judgement)
            if rollout.phase is Phase.PREPARING:
                return prepare(rollout, seen)
            return _await_gateways(rollout, seen)
        case Phase.PAUSED if seen.candidate.health is Health.FAILED:
            return abort(rollout, seen, Reason.REFUSED, seen.candidate.message)
        case _:
            return rollout, ()


def pause(rollout: Rollout, now_ms: int, message: str) -> Rollout:
    """Hold a canary step with its present shares; anything else stays as it is."""
    if rollout.phase is not Phase.CANARY:
        return rollout
    return replace(
        rollout, phase=Phase.PAUSED, reason=Reason.OPERATOR, message=message, since_ms=now_ms
    )


def resume(rollout: Rollout, seen: Observation, message: str = "resumed") -> Move:
    """Go on with a paused step, which gets its whole time again."""
    if rollout.phase is not Phase.PAUSED:
        return rollout, ()
    return enter(rollout, seen, Phase.CANARY, Reason.OPERATOR, message, step=rollout.step)


def skip(rollout: Rollout, seen: Observation, message: str) -> Move:
    """Go on without a verdict: from the shadow comparison to the first step, or to the next share.

    The last step is left by a promotion alone.
    """
    if is_shadowing(rollout):
        return end_shadow(rollout, seen, Reason.SKIPPED, message)
    is_held = seen.candidate.health is Health.READY
    if rollout.phase not in STEPPING or rollout.step + 1 >= len(rollout.steps) or not is_held:
        return rollout, ()
    return enter(rollout, seen, Phase.CANARY, Reason.SKIPPED, message, step=rollout.step + 1)


def promote(rollout: Rollout, seen: Observation, reason: Reason, message: str) -> Move:
    """Give all traffic to a canary that every replica holds; anything else stays as it is."""
    if rollout.phase not in STEPPING or seen.candidate.health is not Health.READY:
        return rollout, ()
    return enter(rollout, seen, Phase.PROMOTING, reason, message, step=len(rollout.steps))


def retry(rollout: Rollout, now_ms: int) -> Rollout:
    """Give the present phase its whole time again."""
    if rollout.is_finished:
        return rollout
    return replace(
        rollout,
        since_ms=now_ms,
        reason=Reason.REQUESTED,
        message="tried again",
        halted_by=None,
        halted_for="",
    )


def _await_gateways(rollout: Rollout, seen: Observation) -> Move:
    """Promoting waits for every gateway to follow."""
    if seen.candidate.health is not Health.READY:
        return wait_in_time(rollout, seen, seen.candidate.message or "replicas that report")
    if _is_followed(rollout, seen):
        return enter(rollout, seen, Phase.PROMOTED, Reason.FOLLOWED, "every gateway follows")
    return wait_in_time(rollout, seen, f"gateways to follow plan epoch {rollout.epoch}")


def _halted(rollout: Rollout, seen: Observation) -> Move:
    """Go back as soon as the old bundle is healthy, or on if no operator asked to go back."""
    if seen.stable.health is Health.READY:
        message = f"{rollout.halted_for or 'halted'}; {rollout.stable_id} is healthy again"
        return enter(rollout, seen, Phase.ABORTED, rollout.halted_by or Reason.LATE, message)
    is_held = seen.candidate.health is Health.READY and _is_followed(rollout, seen)
    if is_held and rollout.halted_by not in {None, Reason.OPERATOR}:
        message = f"{rollout.bundle_id} is healthy again, and every gateway follows"
        return enter(rollout, seen, Phase.PROMOTED, Reason.FOLLOWED, message)
    return rollout, ()


def _is_followed(rollout: Rollout, seen: Observation) -> bool:
    return seen.followed_epoch is not None and seen.followed_epoch >= rollout.epoch


def _judge(rollout: Rollout, seen: Observation, judgement: Judgement | None) -> Move:
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
        return hold(rollout, Reason.NO_DATA, f"waits for {seen.candidate.message or 'replicas'}")
    waited_s = (seen.now_ms - rollout.since_ms) / 1000
    if verdict is Verdict.PASS and rollout.plan is not None:
        least_s = rollout.plan.min_time_s(rollout.step)
        if waited_s >= least_s:
            return _next_step(rollout, seen, f"{at} passed: {said}", step=rollout.step + 1)
        return hold(
            rollout, Reason.STEP_TIME, f"{at} passes so far, and lasts at least {least_s:g} s"
        )
    return _undecided(rollout, seen, waited_s, judgement is None, f"{at} is undecided: {said}")


def _undecided(
    rollout: Rollout, seen: Observation, waited_s: float, is_silent: bool, message: str
) -> Move:
    step = rollout.present_step
    if step is not None and step.max_s is not None and waited_s > step.max_s:
        message = f"{message}; its longest time of {step.max_s:g} s is over"
        if step.on_timeout is OnTimeout.ABORT:
            return abort(rollout, seen, Reason.UNDECIDED, message)
        message += ", and 'cluster canary step', 'promote --full' or 'abort' ends it"
    return hold(rollout, Reason.NO_DATA if is_silent else Reason.UNDECIDED, message)
