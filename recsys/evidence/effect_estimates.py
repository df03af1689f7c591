"""What a metric says of canary beside baseline: values, effect, and the interval around it.

Pure. Chooses the method by the rule's shape; the methods are files of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.evidence.arm_sample import ONE, ArmSample
from recsys.evidence.confidence_sequence import relative_interval
from recsys.evidence.cuped import UserValues, adjust
from recsys.evidence.metric_rules import MetricRule, Shape
from recsys.evidence.quantile_bounds import below_edges, quantile_interval, quantile_ratio
from recsys.evidence.rate_test import rate_difference
from recsys.evidence.ratio_moments import ratio_moments
from recsys.evidence.winsorised import winsorised

Values: TypeAlias = NDArray[np.float64]
Bounds: TypeAlias = Callable[[Values], tuple[Values, Values]]
"""Low and high with so many times as much of the same data, [T] to [T] each."""
MIN_USERS = 50
"""Per arm; below, an asymptotic interval is not to be trusted."""
MIN_ACTIVE_USERS = 20
"""Users of both arms together with a numerator other than 0, for the same reason."""


@dataclass(frozen=True)
class Estimate:
    """A metric of both arms and how far its effect may be from what is seen."""

    n_baseline: int
    n_canary: int
    baseline: float
    canary: float
    effect: float
    bounds: Bounds
    unit: str
    error: float = math.nan
    """Standard error of the effect, where it is asymptotic."""


@dataclass(frozen=True, slots=True)
class NoEstimate:
    """Why a metric says nothing yet, and what would change that."""

    n_baseline: int
    n_canary: int
    baseline: float
    canary: float
    reason: str
    needed: str


def estimate(
    rule: MetricRule, baseline: ArmSample, canary: ArmSample, alpha: float
) -> Estimate | NoEstimate:
    """The metric's values, effect and always-valid interval at level alpha."""
    if rule.shape is Shape.RATE:
        return _rate(rule, baseline, canary, alpha)
    if rule.shape is Shape.QUANTILE:
        return _quantile(rule, baseline, canary, alpha)
    return _of_users(rule, baseline, canary, alpha)


def _rate(
    rule: MetricRule, baseline: ArmSample, canary: ArmSample, alpha: float
) -> Estimate | NoEstimate:
    names = (rule.numerator, rule.denominator)
    missing = [name for name in names for arm in (baseline, canary) if name not in arm.counts]
    if missing:
        return _absent(missing[0])
    hits = [float(arm.counts[rule.numerator]) for arm in (baseline, canary)]
    totals = [float(arm.counts[rule.denominator]) for arm in (baseline, canary)]
    sound = all(math.isfinite(value) for value in (*hits, *totals))
    n = [int(total) if math.isfinite(total) else 0 for total in totals]
    if not sound or not all(0 <= hit <= total for hit, total in zip(hits, totals, strict=True)):
        said = f"its counts are {hits[0]:g} of {totals[0]:g} and {hits[1]:g} of {totals[1]:g}"
        return NoEstimate(n[0], n[1], math.nan, math.nan, f"{said}, no shares", _MEND)
    if not all(totals):
        return NoEstimate(
            n[0], n[1], _share(hits[0], totals[0]), _share(hits[1], totals[1]),
            f"there are no {rule.denominator} of the {_who(totals)}",
            f"{rule.denominator} of both arms",
        )  # fmt: skip

    def bounds(times: Values) -> tuple[Values, Values]:
        first, second = (hits[0] * times, totals[0] * times), (hits[1] * times, totals[1] * times)
        return rate_difference(*first, *second, alpha)

    values = hits[0] / totals[0], hits[1] / totals[1]
    effect = values[1] - values[0]
    return Estimate(n[0], n[1], values[0], values[1], effect, bounds, rule.denominator)


def _quantile(
    rule: MetricRule, baseline: ArmSample, canary: ArmSample, alpha: float
) -> Estimate | NoEstimate:
    n = (baseline.latency.n, canary.latency.n)
    values = [arm.latency.quantile_ms(rule.quantile) for arm in (baseline, canary)]
    if not all(n):
        said = f"there are no latencies of the {_who(n)}"
        return NoEstimate(n[0], n[1], values[0], values[1], said, "answered requests of both arms")
    first, second, edges_ms = below_edges(baseline.latency.counts, canary.latency.counts)

    def bounds(times: Values) -> tuple[Values, Values]:
        found = [
            quantile_interval(below * times[:, None], edges_ms, rule.quantile, alpha / 2)
            for below in (first, second)
        ]
        return quantile_ratio(found[0], found[1])

    effect = values[1] / values[0] - 1
    return Estimate(n[0], n[1], values[0], values[1], effect, bounds, "answered requests")


def _of_users(
    rule: MetricRule, baseline: ArmSample, canary: ArmSample, alpha: float
) -> Estimate | NoEstimate:
    bottom_name = ONE if rule.shape is Shape.MEAN else rule.denominator
    arms = (baseline, canary)
    missing = [name for name in (rule.numerator, bottom_name) for arm in arms if arm.n_users]
    missing = [
        name for name in missing if any(name not in arm.users for arm in arms if arm.n_users)
    ]
    if missing:
        return _absent(missing[0])
    n = (baseline.n_users, canary.n_users)
    if not all(n):
        said = f"there are no users of the {_who(n)}"
        return NoEstimate(n[0], n[1], math.nan, math.nan, said, "users of both arms")
    tops = [np.asarray(arm.users[rule.numerator], np.float64) for arm in arms]
    bottoms = [np.asarray(arm.users[bottom_name], np.float64) for arm in arms]
    n_bad = sum(int((~np.isfinite(column)).sum()) for column in (*tops, *bottoms))
    if n_bad:
        said = f"{n_bad:,} of its {2 * sum(n):,} values are not finite numbers"
        return NoEstimate(n[0], n[1], math.nan, math.nan, said, _MEND)
    if rule.winsorise is not None:
        tops = list(winsorised(tops[0], tops[1], rule.winsorise))
    return _ratio(rule, _past(rule, bottom_name, arms, tops, bottoms), alpha)


def _past(
    rule: MetricRule,
    bottom_name: str,
    arms: tuple[ArmSample, ArmSample],
    tops: list[Values],
    bottoms: list[Values],
) -> tuple[UserValues, UserValues]:
    """Both arms' users with what they did before, bounded as what they did since."""
    before = []
    for arm in arms:
        past, nothing = arm.before or {}, np.full(arm.n_users, np.nan)
        columns = [past.get(name, nothing) for name in (rule.numerator, bottom_name)]
        before.append([np.where(np.isfinite(column), column, np.nan) for column in columns])
    if rule.winsorise is not None:
        pooled = np.concatenate([before[0][0], before[1][0]])
        pooled = pooled[np.isfinite(pooled)]
        if len(pooled):
            bound = np.quantile(pooled, rule.winsorise, method="inverted_cdf")
            before = [[np.minimum(columns[0], bound), columns[1]] for columns in before]
    first, second = (
        UserValues(tops[arm], bottoms[arm], before[arm][0], before[arm][1]) for arm in (0, 1)
    )
    return first, second


def _ratio(
    rule: MetricRule, arms: tuple[UserValues, UserValues], alpha: float
) -> Estimate | NoEstimate:
    arms, unit_top, unit_bottom = _scaled(arms)
    moments = [ratio_moments(arm.top, arm.bottom) for arm in arms]
    n = (len(arms[0].top), len(arms[1].top))
    unit = unit_top / unit_bottom
    values = [float(one.ratio) * unit for one in moments]
    refused = _unfit(rule, n, arms, values)
    if refused is not None:
        return refused
    everybody = sum(float(one.top) for one in moments) / sum(float(one.bottom) for one in moments)
    ratios = [float(one.ratio) for one in moments]
    floor = np.asarray(abs(everybody))
    variances = [float(one.variance(floor)) for one in moments]
    adjusted, moved = adjust(*arms), ratios[1]
    if adjusted is not None:
        # Both arms' shifts are put on the canary, so that the effect stays relative to what the
        # baseline's users did; the variances are those of the adjusted values.
        moved += adjusted.shift_canary - adjusted.shift_baseline
        least = [(abs(everybody) / count) ** 2 for count in n]
        variances = [
            max(adjusted.variance_baseline, least[0]),
            max(adjusted.variance_canary, least[1]),
        ]
    is_signed = any(bool((arm.top < 0).any()) for arm in arms)
    if not moved >= 0 and not is_signed:
        moved = 0.0

    def bounds(times: Values) -> tuple[Values, Values]:
        low, high = relative_interval(
            ratios[0], variances[0] / times, moved, variances[1] / times,
            alpha=alpha, scale=rule.margin,
        )  # fmt: skip
        return low if is_signed else np.maximum(low, -1.0), high

    error = math.sqrt(variances[1] + (ratios[1] / ratios[0]) ** 2 * variances[0]) / ratios[0]
    effect = moved / ratios[0] - 1
    return Estimate(n[0], n[1], values[0], moved * unit, effect, bounds, "users", error)


def _unfit(
    rule: MetricRule, n: tuple[int, int], arms: tuple[UserValues, UserValues], values: list[float]
) -> NoEstimate | None:
    """Why users' values bear no interval, if so."""
    n_active = sum(int((arm.top != 0).sum()) for arm in arms)
    if min(n) < MIN_USERS:
        reason = f"there are {n[0]:,} users of the baseline and {n[1]:,} of the canary"
        needed = f"at least {MIN_USERS} users per arm"
    elif any(not math.isfinite(value) for value in values):
        reason = f"nobody has any {rule.denominator or 'value'} in one of the arms"
        needed = f"users with {rule.denominator or 'a value'} in both arms"
    elif n_active < MIN_ACTIVE_USERS:
        reason = f"only {n_active} users of both arms together have any {rule.numerator}"
        needed = f"at least {MIN_ACTIVE_USERS} users with {rule.numerator}"
    elif not values[0] > 0:
        reason = f"the baseline's value is {values[0]:.4g}, and a relative loss needs one above 0"
        needed = f"a baseline above 0, or a metric that is not relative to {rule.numerator}"
    else:
        return None
    return NoEstimate(n[0], n[1], values[0], values[1], reason, needed)


def _scaled(
    arms: tuple[UserValues, UserValues],
) -> tuple[tuple[UserValues, UserValues], float, float]:
    """Values in units of the greatest one, so that no square overflows."""
    columns = [np.concatenate([arm.top for arm in arms]), np.concatenate([a.bottom for a in arms])]
    units = [float(np.abs(column).max(initial=0.0)) or 1.0 for column in columns]
    first, second = (
        UserValues(
            arm.top / units[0],
            arm.bottom / units[1],
            arm.top_before / units[0],
            arm.bottom_before / units[1],
        )
        for arm in arms
    )
    return (first, second), units[0], units[1]


_MEND = "finite counts; look at what writes the evidence"


def _absent(name: str) -> NoEstimate:
    return NoEstimate(
        0, 0, math.nan, math.nan, f"the evidence has no measure '{name}'",
        f"a store that keeps '{name}', or a plan that does not judge by it",
    )  # fmt: skip


def _share(hits: float, total: float) -> float:
    return hits / total if total else math.nan


def _who(sizes: tuple[int, int] | list[float]) -> str:
    return "baseline" if sizes[1] else "canary" if sizes[0] else "baseline and of the canary"
