"""What the moves of a rollout are made of: entering a phase, holding, going back. Pure.

Knows what the fleet shall be in each phase; which move is made is `rollout`'s and `preparing`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from cluster.rollouts.deciding.rollout_record import (
    Action,
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
)
from recsys.traffic import BASELINE, CANARY, STABLE, Arm, TrafficPlan

Move: TypeAlias = tuple[Rollout, tuple[Action, ...]]
"""The next record, which is stored first, and what makes the fleet match it."""
STEPPING = frozenset({Phase.CANARY, Phase.PAUSED})


def actions_of(rollout: Rollout) -> tuple[Action, ...]:
    """What makes the fleet match the record; the same record always asks for the same."""
    match rollout.phase:
        case Phase.PREPARING:
            ids = (rollout.stable_id, *rollout.resident_before, rollout.bundle_id)
            return (Require(tuple(dict.fromkeys(ids))), *_shadow_actions(rollout))
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
            clear = _shadow_actions(rollout)
            return (SetPlan(_plan(rollout)), *clear, Release(keep, rollout.epoch))
        case _:
            return ()


def enter(
    rollout: Rollout,
    seen: Observation,
    phase: Phase,
    reason: Reason,
    message: str,
    *,
    step: int | None = None,
) -> Move:
    """Go to a phase and step; one that changes who answers whom gets a new epoch."""
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
        halted_by=None,
        halted_for="",
    )
    return entered, actions_of(entered)


def enter_shadow(
    rollout: Rollout, seen: Observation, shadow: Shadowing, reason: Reason, message: str
) -> Move:
    """Begin or end the shadow comparison; the rollout prepares on."""
    entered = replace(
        rollout,
        shadow=shadow,
        reason=reason,
        message=message,
        since_ms=seen.now_ms,
        is_settled=False,
    )
    return entered, actions_of(entered)


def hold(rollout: Rollout, reason: Reason, message: str) -> Move:
    """Stay, and say why."""
    return replace(rollout, reason=reason, message=message), ()


def wait_in_time(rollout: Rollout, seen: Observation, waits_for: str) -> Move:
    """Hold for the fleet, or go back once that takes too long."""
    waited_ms = seen.now_ms - rollout.since_ms
    if waited_ms > rollout.ready_timeout_ms:
        message = f"waited {waited_ms / 1000:.0f} s in {rollout.phase} for {waits_for}"
        return abort(rollout, seen, Reason.LATE, message)
    no_data = seen.candidate.health is Health.UNKNOWN
    return hold(rollout, Reason.NO_DATA if no_data else Reason.LOADING, f"waits for {waits_for}")


def next_step(rollout: Rollout, seen: Observation, message: str, step: int) -> Move:
    """Go to a step, or to all traffic after the last."""
    reason = Reason.PASSED if step else Reason.READY
    phase = Phase.CANARY if step < len(rollout.steps) else Phase.PROMOTING
    if phase is Phase.CANARY and rollout.opened_ms is None:
        rollout = replace(rollout, opened_ms=seen.now_ms)
    return enter(rollout, seen, phase, reason, message, step=step)


def abort(rollout: Rollout, seen: Observation, reason: Reason, message: str) -> Move:
    """Lead all traffic back to the old bundle, unless neither bundle is known to be healthy."""
    if rollout.is_finished:
        return rollout, ()
    if rollout.phase is Phase.PROMOTING and seen.stable.health is not Health.READY:
        stuck = (
            f"halted: cannot go on ({message}) and cannot go back, because {rollout.stable_id} "
            f"is not known to be healthy ({seen.stable.message or seen.stable.health}); mend the "
            "replicas, and it goes back by itself; or run 'cluster canary retry' or "
            "'cluster canary abort'"
        )
        halted = replace(
            rollout, reason=Reason.HALTED, message=stuck, halted_by=reason, halted_for=message
        )
        return halted, ()
    return enter(rollout, seen, Phase.ABORTED, reason, message)


def _shadow_actions(rollout: Rollout) -> tuple[Action, ...]:
    """Copies while the comparison runs, and an end to them in whatever way it is left."""
    if rollout.shadow is Shadowing.NONE or rollout.plan is None:
        return ()
    shadow = SetShadow(
        rollout.rollout_id, rollout.bundle_id, rollout.plan.shadow_share, rollout.started_ms
    )
    if rollout.phase is Phase.PREPARING and rollout.shadow is Shadowing.RUNNING:
        return (shadow,)
    return (ClearShadow(shadow, rollout.message),)


def _plan(rollout: Rollout) -> TrafficPlan:
    """The shares of this phase: canary and baseline are equal slices, stable has the rest."""
    salt = rollout.rollout_id
    if rollout.phase not in STEPPING:
        bundle_id = rollout.bundle_id if rollout.phase is Phase.PROMOTING else rollout.stable_id
        return TrafficPlan.single(bundle_id, rollout.epoch, salt)
    share = rollout.steps[rollout.step]
    arms = (
        Arm(STABLE, rollout.stable_id, 1.0 - 2.0 * share),
        Arm(BASELINE, rollout.stable_id, share),
        Arm(CANARY, rollout.bundle_id, share),
    )
    return TrafficPlan(rollout.epoch, salt, arms)
