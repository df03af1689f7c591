"""Rollouts of made-up users, judged at every look: how often a sound canary is aborted.

Whole arrays of rollouts at once, by the functions that judge real ones. Knows no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.evidence.confidence_sequence import relative_interval
from recsys.evidence.effect_estimates import MIN_ACTIVE_USERS, MIN_USERS
from recsys.evidence.metric_rules import METRICS, Better, MetricRule, Role, Shape
from recsys.evidence.quantile_bounds import quantile_interval, quantile_ratio
from recsys.evidence.rate_test import rate_difference
from recsys.evidence.simulated_users import (
    PAIRS,
    ArmSums,
    SimulatedRollout,
    arrivals,
    simulated_arms,
)

Values: TypeAlias = NDArray[np.float64]
JUDGE = "judge"
"""The key of all critical metrics together."""
RULES = tuple(
    METRICS[name]
    for name in ("error_rate", "coverage", "degraded_share", "shed_share", "p50_ms", "ctr")
)
"""The critical metrics of a usual plan."""
_N_BUCKETS = 40


@dataclass(frozen=True, slots=True)
class LookFigures:
    """Shares of the rollouts of one metric, or of all critical ones together."""

    aborted: float
    """Judged FAIL at any look."""
    passed: float
    """Judged PASS at the last look."""
    missed: float
    """Whose interval missed the true effect at any look; NaN where the truth is not known."""
    users_at_abort: float
    """Mean users of the canary at the look that aborted; NaN without any."""


def simulate_looks(
    world: SimulatedRollout,
    *,
    n_rollouts: int,
    alpha: float = 0.05,
    rules: Sequence[MetricRule] = RULES,
    seed: int = 0,
) -> dict[str, LookFigures]:
    """Judge every look of many rollouts: each metric alone at alpha, and the critical together."""
    n_critical = sum(rule.role is Role.CRITICAL for rule in rules)
    found: dict[str, list[_Looks]] = {}
    rng = np.random.default_rng(seed)
    sound = replace(world, effect=0.0, added_failures=0.0, slower=1.0)
    names = [rule.name for rule in rules if rule.name in PAIRS]
    for first, second in simulated_arms(world, n_rollouts, rng, names):
        arms = _arm(sound, first, rng), _arm(world, second, rng)
        for rule in rules:
            found.setdefault(rule.name, []).append(_look(rule, arms, alpha, world))
        together = [
            _look(rule, arms, alpha / n_critical, world)
            for rule in rules
            if rule.role is Role.CRITICAL
        ]
        if together:
            found.setdefault(JUDGE, []).append(_together(together))
    n_users = np.cumsum(arrivals(world))
    return {name: _figures(parts, n_users) for name, parts in found.items()}


@dataclass(frozen=True)
class _Looks:
    """What each look of each rollout said, [R, L] each."""

    fails: NDArray[np.bool_]
    passes: NDArray[np.bool_]
    misses: NDArray[np.bool_]


@dataclass(frozen=True)
class _Arm:
    users: ArmSums
    counts: Mapping[str, Values]  # [R, L]
    below: Values  # [R, L, E]
    edges_ms: Values  # [E]


def _arm(world: SimulatedRollout, users: ArmSums, rng: np.random.Generator) -> _Arm:
    return _Arm(users, *_operational(world, users.slates, rng))


def _operational(
    world: SimulatedRollout, requests: Values, rng: np.random.Generator
) -> tuple[dict[str, Values], Values, Values]:
    new = np.diff(requests, axis=1, prepend=0).astype(np.int64)  # [R, L]

    def draw(rate: float) -> Values:
        return np.cumsum(rng.binomial(new, rate), axis=1).astype(np.float64)

    counts = {
        "requests": requests,
        "slates": requests,
        "errors": draw(min(world.failures + world.added_failures, 1.0)),
        "degraded": draw(world.failures),
        "shed": draw(world.failures),
        "covered": requests - draw(world.failures),
    }
    # A latency's logarithm is triangular over buckets of a tenth: a median and two plain tails.
    buckets = np.arange(_N_BUCKETS)
    chances = np.minimum(buckets + 1, _N_BUCKETS - buckets).astype(np.float64)
    shift = round(float(np.log(world.slower) / np.log(1.1)))
    drawn = rng.multinomial(new, chances / chances.sum())  # [R, L, B]
    widened = np.zeros((*new.shape, shift + _N_BUCKETS))
    widened[..., shift:] = drawn
    below = np.cumsum(np.cumsum(widened, axis=1), axis=2)
    below = np.concatenate([np.zeros((*new.shape, 1)), below], axis=2)
    edges_ms = np.asarray(1.1 ** np.arange(shift + _N_BUCKETS + 1), np.float64)
    return counts, below, edges_ms


def _look(
    rule: MetricRule, arms: tuple[_Arm, _Arm], alpha: float, world: SimulatedRollout
) -> _Looks:
    low, high = _INTERVALS[rule.shape](rule, arms, alpha)
    truth = _truth(rule, world)
    misses = (low > truth) | (high < truth)
    if rule.better is Better.LOWER:
        low, high = -high, -low
    return _Looks(high < -rule.margin, low > -rule.margin, misses)


def _truth(rule: MetricRule, world: SimulatedRollout) -> float:
    if rule.shape is Shape.QUANTILE:
        # The quantile is known to its bucket, so a shift by whole buckets is exact.
        return float(1.1 ** round(float(np.log(world.slower) / np.log(1.1)))) - 1
    if rule.shape is Shape.RATE:
        return world.added_failures if rule.numerator == "errors" else 0.0
    return world.effect


def users_interval(
    rule: MetricRule, baseline: ArmSums, canary: ArmSums, alpha: float
) -> tuple[Values, Values]:
    """Low and high of a relative effect at every look, [R, L]; infinite before anything is told."""
    first, second = (arm.moments[rule.name] for arm in (baseline, canary))
    n_active = baseline.n_active[rule.name] + canary.n_active[rule.name]
    with np.errstate(all="ignore"):
        pooled = (first.top + second.top) / (first.bottom + second.bottom)
        low, high = relative_interval(
            first.ratio, first.variance(pooled), second.ratio, second.variance(pooled),
            alpha=alpha, scale=rule.margin,
        )  # fmt: skip
    is_known = (first.n >= MIN_USERS) & (n_active >= MIN_ACTIVE_USERS) & (first.top > 0)
    return np.where(is_known, low, -np.inf), np.where(is_known, high, np.inf)


def _of_users(rule: MetricRule, arms: tuple[_Arm, _Arm], alpha: float) -> tuple[Values, Values]:
    return users_interval(rule, arms[0].users, arms[1].users, alpha)


def _of_requests(rule: MetricRule, arms: tuple[_Arm, _Arm], alpha: float) -> tuple[Values, Values]:
    first, second = ((arm.counts[rule.numerator], arm.counts[rule.denominator]) for arm in arms)
    return rate_difference(*first, *second, alpha)


def _of_latencies(rule: MetricRule, arms: tuple[_Arm, _Arm], alpha: float) -> tuple[Values, Values]:
    first, second = (
        quantile_interval(arm.below, arm.edges_ms, rule.quantile, alpha / 2) for arm in arms
    )
    return quantile_ratio(first, second)


_INTERVALS: Mapping[
    Shape, Callable[[MetricRule, tuple[_Arm, _Arm], float], tuple[Values, Values]]
] = {
    Shape.RATIO: _of_users,
    Shape.MEAN: _of_users,
    Shape.RATE: _of_requests,
    Shape.QUANTILE: _of_latencies,
}


def _together(looks: Sequence[_Looks]) -> _Looks:
    return _Looks(
        np.logical_or.reduce([one.fails for one in looks]),
        np.logical_and.reduce([one.passes for one in looks]),
        np.logical_or.reduce([one.misses for one in looks]),
    )


def _figures(parts: Sequence[_Looks], n_users: NDArray[np.int64]) -> LookFigures:
    fails = np.concatenate([part.fails for part in parts])
    passes = np.concatenate([part.passes for part in parts])
    misses = np.concatenate([part.misses for part in parts])
    aborted = fails.any(1)
    at = n_users[fails.argmax(1)[aborted]]
    return LookFigures(
        float(aborted.mean()),
        float((passes[:, -1] & ~aborted).mean()),
        float(misses.any(1).mean()),
        float(at.mean()) if len(at) else float("nan"),
    )
