"""How many users an experiment needs to tell its margin, by the intervals that will judge it. Pure.

The always-valid interval is wider than a fixed-horizon one, so no textbook sample size applies:
its width is asked of the functions that make it.
"""

from __future__ import annotations

import math

import numpy as np

from recsys.evidence.arm_sample import ONE, Measures
from recsys.evidence.confidence_sequence import relative_interval
from recsys.evidence.effect_estimates import MIN_USERS
from recsys.evidence.metric_rules import Better, MetricRule, Shape
from recsys.evidence.ratio_moments import ratio_moments
from recsys.evidence.winsorised import winsorised

POWER = 0.8
_Z_POWER = 0.8416212335729143
"""The standard normal's quantile of `POWER`."""
_MOST_USERS = 10**9
_PER_DOUBLING = 8


def unit_variance(rule: MetricRule, users: Measures) -> float | None:
    """Squared relative standard error of the metric times the users it was made of.

    Args:
        users: sums of users of one arm, [U] each.

    Returns:
        None where they bear no estimate.
    """
    bottom_name = ONE if rule.shape is Shape.MEAN else rule.denominator
    if rule.numerator not in users or bottom_name not in users:
        return None
    top = np.asarray(users[rule.numerator], np.float64)
    bottom = np.asarray(users[bottom_name], np.float64)
    if rule.winsorise is not None:
        top = winsorised(top, top[:0], rule.winsorise)[0]
    if len(top) < MIN_USERS or not bottom.sum() > 0 or not top.sum() > 0:
        return None
    moments = ratio_moments(top, bottom)
    value = float(moments.ratio)
    return float(moments.variance(np.asarray(value))) / value**2 * len(top)


def users_needed(rule: MetricRule, spread: float, alpha: float, lift: float = 0.0) -> int | None:
    """Users per arm after which the verdict is a pass with a chance of `POWER`, or None.

    Args:
        rule: with the declared margin.
        spread: `unit_variance` of control's users.
        alpha: of the one comparison.
        lift: relative effect in the good direction that is supposed to be true.

    Returns:
        None where no number of users would show it: the lift is no better than the margin.
    """
    if not lift + rule.margin > 0 or not spread > 0:
        return None
    n_steps = math.ceil(math.log2(_MOST_USERS / MIN_USERS) * _PER_DOUBLING)
    n = np.round(MIN_USERS * 2.0 ** (np.arange(n_steps + 1) / _PER_DOUBLING))
    sign = -1.0 if rule.better is Better.LOWER else 1.0
    true = 1.0 + sign * lift
    variance = spread / n
    unlucky = true - sign * _Z_POWER * np.sqrt(variance * (1 + true * true))
    low, high = relative_interval(
        1.0, variance, unlucky, variance * true * true, alpha=alpha, scale=rule.margin
    )
    worst = low if sign > 0 else -high
    passes = worst > -rule.margin
    return int(n[int(passes.argmax())]) if passes.any() else None
