"""Four rules on the same simulated users at every look: who is aborted, when, and who passes. Pure.

Whole arrays of rollouts judged by the CTR; the sequential rule is the one that judges real ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cluster.rollouts.simulation.rival_rules import FIXED, PEEKING, RAW
from cluster.rollouts.simulation.simulation_report import SEQUENTIAL
from recsys.evidence.metric_rules import METRICS, MetricRule
from recsys.evidence.simulated_looks import users_interval
from recsys.evidence.simulated_users import ArmSums, SimulatedRollout, arrivals, simulated_arms

Values: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
RULES = (SEQUENTIAL, FIXED, PEEKING, RAW)


@dataclass(frozen=True)
class RuleLooks:
    """What one rule made of all rollouts of a world."""

    users_at_abort: Values
    """Users per arm at the look that aborted; NaN of a rollout that was not, [R]."""
    is_promoted: Flags
    """Passed at the last look and never aborted, [R]."""

    @property
    def n_aborted(self) -> int:
        return int(np.isfinite(self.users_at_abort).sum())

    def median_users(self) -> float:
        """Users per arm at the abort, of those aborted; NaN of none."""
        found = self.users_at_abort[np.isfinite(self.users_at_abort)]
        return float(np.median(found)) if len(found) else math.nan


@dataclass(frozen=True)
class WorldLooks:
    """All rules on one world, and how precise its last look is."""

    rules: Mapping[str, RuleLooks]
    error: float
    """Mean standard error of the relative effect at the last look."""


def ctr_rule(margin: float) -> MetricRule:
    """The CTR with this allowed loss."""
    return replace(METRICS["ctr"], margin=margin)


def look_at(
    world: SimulatedRollout, margin: float, n_rollouts: int, *, alpha: float, seed: int
) -> WorldLooks:
    """Judge every look of so many rollouts by each rule."""
    rng, rule = np.random.default_rng(seed), ctr_rule(margin)
    n_users = np.cumsum(arrivals(world)).astype(np.float64)
    parts: dict[str, list[RuleLooks]] = {name: [] for name in RULES}
    errors = []
    for arms in simulated_arms(world, n_rollouts, rng, [rule.name]):
        low, high = users_interval(rule, *arms, alpha)
        parts[SEQUENTIAL].append(_ends(high < -margin, low > -margin, n_users))
        loss, error = _point(*arms)
        errors.append(error[:, -1])
        with np.errstate(invalid="ignore"):
            beyond = loss - margin > NormalDist().inv_cdf(1 - alpha) * error
            at_end = np.zeros_like(beyond)
            at_end[:, -1] = beyond[:, -1]
            for name, fails in ((FIXED, at_end), (PEEKING, beyond), (RAW, loss > margin)):
                parts[name].append(_ends(fails, ~fails, n_users))
    return WorldLooks(
        {name: _joined(found) for name, found in parts.items()},
        float(np.nanmean(np.concatenate(errors))),
    )


def users_until_passed(
    world: SimulatedRollout, margin: float, n_rollouts: int, *, alpha: float, seed: int
) -> float:
    """Users per arm at which four of five equal canaries had passed; NaN if they never do."""
    rng, rule = np.random.default_rng(seed), ctr_rule(margin)
    passed = []
    for arms in simulated_arms(world, n_rollouts, rng, [rule.name]):
        low, _ = users_interval(rule, *arms, alpha)
        passed.append(np.maximum.accumulate(low > -margin, axis=1))
    share = np.concatenate(passed).mean(0)
    if share[-1] < _POWER:
        return math.nan
    return float(np.cumsum(arrivals(world))[int((share >= _POWER).argmax())])


def fixed_users(error: float, n_users: int, distance: float, alpha: float) -> float:
    """Users per arm of a z test that finds a loss this far beyond the margin four times of five."""
    wanted = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(_POWER)
    return n_users * (wanted * error / distance) ** 2


_POWER = 0.8
_MIN_USERS = 50
"""No rule looks earlier, so that none is blamed for a handful of users."""


def _point(baseline: ArmSums, canary: ArmSums) -> tuple[Values, Values]:
    """Loss of the CTR and its standard error, relative to the baseline, [R, L]."""
    first, second = baseline.moments["ctr"], canary.moments["ctr"]
    nothing = np.zeros(1)
    with np.errstate(all="ignore"):
        ratio = second.ratio / first.ratio
        spread = second.variance(nothing) + np.square(ratio) * first.variance(nothing)
        return np.asarray(1 - ratio), np.asarray(np.sqrt(spread) / first.ratio)


def _ends(fails: Flags, passes: Flags, n_users: Values) -> RuleLooks:
    fails = fails & (n_users >= _MIN_USERS)
    aborted = fails.any(1)
    at = np.where(aborted, n_users[fails.argmax(1)], np.nan)
    return RuleLooks(at, passes[:, -1] & ~aborted)


def _joined(parts: list[RuleLooks]) -> RuleLooks:
    return RuleLooks(
        np.concatenate([part.users_at_abort for part in parts]),
        np.concatenate([part.is_promoted for part in parts]),
    )
