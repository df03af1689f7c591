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
from recsys.evidence.ratio_moments import RatioMoments

Values: TypeAlias = NDArray[np.float64]
JUDGE = "judge"
"""The key of all critical metrics together."""
RULES = tuple(
    METRICS[name]
    for name in ("error_rate", "coverage", "degraded_share", "shed_share", "p50_ms", "ctr")
)
"""The critical metrics of a usual plan."""
_SHOWN = 10
_N_BUCKETS = 40
_CELLS_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class SimulatedRollout:
    """How the users of both arms behave, and what the canary changes."""

    n_users: int = 1_000
    """Per arm at the last look; they arrive evenly over the looks and stay."""
    n_looks: int = 25
    slates_per_user: float = 4.0
    """Mean per user who was there from the first look on."""
    ctr: float = 0.075
    spread: float = 0.5
    """Sigma of the lognormal that users' inclinations differ by."""
    drift: float = 0.0
    """Relative change of everybody's inclination from the first to the last look."""
    failures: float = 0.001
    """Rate of errors, of degraded and of shed requests, and what coverage lacks."""
    conversion: float = 0.004
    """Per slate; its value is lognormal with twice the spread."""
    effect: float = 0.0
    """Relative change of the canary's clicks and conversions."""
    added_failures: float = 0.0
    """The canary's further rate of errors."""
    slower: float = 1.0
    """Factor of the canary's latencies, to a tenth."""


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
    at_once = max(1, _CELLS_AT_ONCE // (world.n_users * world.n_looks))
    rng = np.random.default_rng(seed)
    for first in range(0, n_rollouts, at_once):
        n = min(at_once, n_rollouts - first)
        arms = (_arm(replace(world, effect=0.0, added_failures=0.0, slower=1.0), n, rng),
                _arm(world, n, rng))  # fmt: skip
        for rule in rules:
            found.setdefault(rule.name, []).append(_look(rule, arms, alpha, world))
        together = [
            _look(rule, arms, alpha / n_critical, world)
            for rule in rules
            if rule.role is Role.CRITICAL
        ]
        if together:
            found.setdefault(JUDGE, []).append(_together(together))
    n_users = np.cumsum(_arrivals(world))
    return {name: _figures(parts, n_users) for name, parts in found.items()}


@dataclass(frozen=True)
class _Looks:
    """What each look of each rollout said, [R, L] each."""

    fails: NDArray[np.bool_]
    passes: NDArray[np.bool_]
    misses: NDArray[np.bool_]


@dataclass(frozen=True)
class _Arm:
    moments: Mapping[str, RatioMoments]
    """By metric, [R, L]; n is one number per look."""
    n_active: Mapping[str, NDArray[np.int64]]
    counts: Mapping[str, Values]  # [R, L]
    below: Values  # [R, L, E]
    edges_ms: Values  # [E]


def _arrivals(world: SimulatedRollout) -> NDArray[np.int64]:
    """New users of each look, [L]."""
    ends = np.linspace(0, world.n_users, world.n_looks + 1).round().astype(np.int64)
    return np.diff(ends)


def _arm(world: SimulatedRollout, n: int, rng: np.random.Generator) -> _Arm:
    looks = np.arange(world.n_looks)
    arrival = np.repeat(looks, _arrivals(world))  # [U]
    is_there = arrival[:, None] <= looks  # [U, L]
    own = rng.lognormal(-(world.spread**2) / 2, world.spread, (n, world.n_users, 1))
    mood = (1 + world.drift * looks / max(world.n_looks - 1, 1)) * (1 + world.effect)
    size = (n, world.n_users, world.n_looks)
    new = rng.poisson(is_there * world.slates_per_user / world.n_looks, size)
    inclined = own * mood * new
    sales = rng.poisson(world.conversion * inclined)
    worths = sales * rng.lognormal(-2 * world.spread**2, 2 * world.spread, size)
    slates, bought, worth = _summed(new), _summed(sales), _summed(worths)
    clicks = _summed(rng.poisson(world.ctr * _SHOWN * inclined))
    shown = _SHOWN * slates
    is_one = np.broadcast_to(is_there.astype(np.float64), slates.shape)
    pairs = {
        "ctr": (clicks, shown),
        "conversion": (bought, slates),
        "value_per_user": (worth, is_one),
    }
    n_users = is_there.sum(0).astype(np.float64)
    requests = slates.sum(1)
    counts, below, edges_ms = _operational(world, requests, rng)
    return _Arm(
        {name: _moments(top, bottom, n_users) for name, (top, bottom) in pairs.items()},
        {name: (top > 0).sum(1) for name, (top, _) in pairs.items()},
        counts,
        below,
        edges_ms,
    )


def _summed(parts: NDArray[np.float64] | NDArray[np.int64]) -> Values:
    """Each user's sum up to each look, [R, U, L]."""
    return np.asarray(np.cumsum(parts, axis=2, dtype=np.float64))


def _moments(top: Values, bottom: Values, n_users: Values) -> RatioMoments:
    return RatioMoments(
        np.broadcast_to(n_users, (len(top), len(n_users))),
        top.sum(1),
        bottom.sum(1),
        np.einsum("rul,rul->rl", top, top),
        np.einsum("rul,rul->rl", bottom, bottom),
        np.einsum("rul,rul->rl", top, bottom),
    )


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
    widened = np.zeros((*new.shape, 2 * _N_BUCKETS))
    widened[..., shift : shift + _N_BUCKETS] = drawn
    below = np.cumsum(np.cumsum(widened, axis=1), axis=2)
    below = np.concatenate([np.zeros((*new.shape, 1)), below], axis=2)
    edges_ms = np.asarray(1.1 ** np.arange(2 * _N_BUCKETS + 1), np.float64)
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


def _of_users(rule: MetricRule, arms: tuple[_Arm, _Arm], alpha: float) -> tuple[Values, Values]:
    first, second = (arm.moments[rule.name] for arm in arms)
    n_active = arms[0].n_active[rule.name] + arms[1].n_active[rule.name]
    with np.errstate(all="ignore"):
        pooled = (first.top + second.top) / (first.bottom + second.bottom)
        low, high = relative_interval(
            first.ratio, first.variance(pooled), second.ratio, second.variance(pooled),
            alpha=alpha, scale=rule.margin,
        )  # fmt: skip
    is_known = (first.n >= MIN_USERS) & (n_active >= MIN_ACTIVE_USERS) & (first.top > 0)
    return np.where(is_known, low, -np.inf), np.where(is_known, high, np.inf)


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
