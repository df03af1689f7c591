"""One rollout on simulated users, judged and advanced by the controller's own functions. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from cluster.rollouts.deciding.rollout import advance
from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.deciding.rollout_record import (
    BundleHealth,
    Health,
    Observation,
    Phase,
    Rollout,
)
from cluster.rollouts.deciding.step_judgement import judge_step
from cluster.rollouts.simulation.simulated_slices import SimulatedSlices
from cluster.rollouts.simulation.traffic_shape import Effect, TrafficShape
from recsys.traffic import BASELINE, CANARY

_HEALTHY = BundleHealth(Health.READY)
_START_MS = 1_000_000
_PATIENCE = 2.0
"""How many times its shortest time a rollout is followed before it counts as held."""


class Outcome(StrEnum):
    """How a simulated rollout ended."""

    PROMOTED = "promoted"
    ABORTED = "aborted"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class SimulatedEnd:
    """When and how one ended, and whom it met."""

    outcome: Outcome
    at_s: float
    """Since the canary's first user."""
    users_exposed: int
    step: int
    """The step it ended at, from 1."""
    deciding: str


@dataclass(frozen=True, slots=True)
class Looks:
    """How often the evidence is judged, and for how long."""

    every_s: float
    until_s: float


def planned_s(plan: RolloutPlan) -> float:
    """The shortest time from the first user to a promotion."""
    return sum(plan.min_time_s(step) for step in range(len(plan.steps)))


def usual_looks(plan: RolloutPlan, n_looks: int = 60) -> Looks:
    """So many looks over the plan's shortest time, and as often for twice as long."""
    shortest_s = max(planned_s(plan), 1.0)
    return Looks(shortest_s / n_looks, shortest_s * _PATIENCE)


def simulate_rollout(
    plan: RolloutPlan,
    shape: TrafficShape,
    effect: Effect,
    looks: Looks,
    rng: np.random.Generator,
) -> SimulatedEnd:
    """Turn after turn until it is promoted or aborted, or counts as held."""
    slices = SimulatedSlices(shape, effect, rng)
    rollout = _opened(plan)
    now_s = 0.0
    while now_s < looks.until_s:
        slices.pass_time(rollout.steps[rollout.step], now_s, looks.every_s)
        now_s += looks.every_s
        judgement = judge_step(plan, rollout.step, slices.samples())
        moved = replace(advance(rollout, _seen(now_s), judgement)[0], is_settled=True)
        outcome = _OUTCOMES.get(moved.phase)
        if outcome is not None:
            number = rollout.step + 1
            return SimulatedEnd(outcome, now_s, slices.users_exposed, number, judgement.deciding)
        rollout = moved
    deciding = str((rollout.judgement or {}).get("deciding", ""))
    return SimulatedEnd(Outcome.HELD, now_s, slices.users_exposed, rollout.step + 1, deciding)


_OUTCOMES = {
    Phase.PROMOTING: Outcome.PROMOTED,
    Phase.PROMOTED: Outcome.PROMOTED,
    Phase.ABORTED: Outcome.ABORTED,
}


def _opened(plan: RolloutPlan) -> Rollout:
    """A rollout of this plan at its canary's first user."""
    return Rollout(
        rollout_id="simulated",
        bundle_id=CANARY,
        stable_id=BASELINE,
        plan_name=plan.name,
        steps=plan.shares,
        resident_before=(),
        resident_after=(CANARY, BASELINE),
        started_ms=_START_MS,
        ready_timeout_ms=60_000,
        since_ms=_START_MS,
        phase=Phase.CANARY,
        epoch=1,
        plan=plan,
        opened_ms=_START_MS,
    )


def _seen(now_s: float) -> Observation:
    return Observation(_START_MS + round(now_s * 1000), 1, _HEALTHY, _HEALTHY, 1)
