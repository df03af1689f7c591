"""What a rollout does before its first user: wait for replicas, then compare answers on copies."""

from __future__ import annotations

from dataclasses import replace

from cluster.rollouts.deciding.rollout_moves import (
    Move,
    abort,
    enter_shadow,
    hold,
    next_step,
    wait_in_time,
)
from cluster.rollouts.deciding.rollout_plan import OnShadowTimeout, RolloutPlan
from cluster.rollouts.deciding.rollout_record import (
    Health,
    Observation,
    Phase,
    Reason,
    Rollout,
    Shadowing,
)
from recsys.evidence.comparison import Verdict
from recsys.evidence.shadow_sums_json import shadow_sums_from_json
from recsys.evidence.shadow_verdict import ShadowJudgement, ShadowNeeds, judge_shadow


def prepare(rollout: Rollout, seen: Observation) -> Move:
    """One turn before the first user."""
    plan = rollout.plan
    if rollout.shadow is Shadowing.RUNNING and plan is not None:
        return _compare(rollout, plan, seen)
    if seen.candidate.health is not Health.READY:
        return wait_in_time(rollout, seen, seen.candidate.message or "replicas that report")
    if rollout.steps and plan is not None and wants_shadow(rollout):
        message = f"every replica is ready; {plan.shadow_share:.0%} of the requests are copied"
        return enter_shadow(rollout, seen, Shadowing.RUNNING, Reason.READY, message)
    if rollout.steps and seen.evidence_problem:
        return wait_in_time(rollout, seen, seen.evidence_problem)
    return next_step(rollout, seen, "every replica is ready", step=0)


def wants_shadow(rollout: Rollout) -> bool:
    """Whether a comparison is still to come."""
    plan = rollout.plan
    return plan is not None and plan.shadow_requests > 0 and rollout.shadow is Shadowing.NONE


def is_shadowing(rollout: Rollout) -> bool:
    """Whether answers are compared just now."""
    return rollout.phase is Phase.PREPARING and rollout.shadow is Shadowing.RUNNING


def end_shadow(rollout: Rollout, seen: Observation, reason: Reason, message: str) -> Move:
    """Go on without a verdict of the comparison; anything else stays as it is."""
    if not is_shadowing(rollout):
        return rollout, ()
    return enter_shadow(rollout, seen, Shadowing.OVER, reason, message)


def _compare(rollout: Rollout, plan: RolloutPlan, seen: Observation) -> Move:
    """What the shadow's answers decide."""
    judged = _judged(plan, seen)
    if judged is not None:
        rollout = replace(rollout, shadow_judgement=judged.to_json())
    verdict = Verdict.INCONCLUSIVE if judged is None else judged.verdict
    said = seen.evidence_problem or "no answer is counted yet"
    said = said if judged is None else judged.message
    is_ready = seen.candidate.health is Health.READY
    if verdict is Verdict.FAIL and is_ready:
        return abort(rollout, seen, Reason.EVIDENCE, f"the shadow comparison failed: {said}")
    if verdict is Verdict.PASS and is_ready:
        message = f"the shadow comparison passed: {said}"
        return end_shadow(rollout, seen, Reason.PASSED, message)
    no_data = judged is None or judged.n == 0
    if not is_ready:
        no_data, said = True, f"waits for {seen.candidate.message or 'replicas that report'}"
    message = f"the shadow comparison is undecided: {said}"
    waited_s = (seen.now_ms - rollout.since_ms) / 1000
    if waited_s <= plan.shadow_max_s:
        return hold(rollout, Reason.NO_DATA if no_data else Reason.UNDECIDED, message)
    return _overdue(rollout, plan, seen, message, no_data=no_data)


def _judged(plan: RolloutPlan, seen: Observation) -> ShadowJudgement | None:
    if seen.shadow is None:
        return None
    needs = ShadowNeeds(plan.shadow_requests, plan.min_overlap, plan.alpha)
    return judge_shadow(shadow_sums_from_json(seen.shadow), needs)


def _overdue(
    rollout: Rollout, plan: RolloutPlan, seen: Observation, message: str, *, no_data: bool
) -> Move:
    message = f"{message}; its longest time of {plan.shadow_max_s:g} s is over"
    if plan.on_shadow_timeout is OnShadowTimeout.ABORT:
        return abort(rollout, seen, Reason.UNDECIDED, message)
    if plan.on_shadow_timeout is OnShadowTimeout.GO_ON:
        return end_shadow(rollout, seen, Reason.UNDECIDED, f"{message}, and the plan goes on")
    message += ", and 'cluster canary step' or 'abort' ends it"
    return hold(rollout, Reason.NO_DATA if no_data else Reason.UNDECIDED, message)
