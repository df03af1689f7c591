"""A metric of any number of arms, with what their users did before taken out of all alike: pure.

CUPED as `cuped` has it, with one theta and one center over all arms (Deng, Xu, Kohavi & Walker
2013), so that any difference of arms is adjusted the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.evidence.arm_sample import ONE, ArmSample
from recsys.evidence.cuped import MIN_PAST_USERS
from recsys.evidence.effect_estimates import MIN_ACTIVE_USERS, MIN_USERS
from recsys.evidence.metric_rules import MetricRule, Shape
from recsys.evidence.ratio_moments import ratio_moments

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class ArmValues:
    """The metric per arm and its squared standard error, [A] each."""

    values: Values
    variances: Values
    theta: float | None
    """None where the past explained nothing."""


def arm_values(rule: MetricRule, arms: Sequence[ArmSample]) -> ArmValues | None:
    """The metric of every arm; None where one of them has too few users to bear an estimate."""
    bottom_name = ONE if rule.shape is Shape.MEAN else rule.denominator
    names = (rule.numerator, bottom_name)
    if any(arm.n_users < MIN_USERS or any(n not in arm.users for n in names) for arm in arms):
        return None
    tops = _bounded([np.asarray(arm.users[rule.numerator], np.float64) for arm in arms], rule)
    if sum(int((top != 0).sum()) for top in tops) < MIN_ACTIVE_USERS:
        return None
    bottoms = [np.asarray(arm.users[bottom_name], np.float64) for arm in arms]
    if any(not bottom.sum() > 0 for bottom in bottoms):
        return None
    moments = [ratio_moments(top, bottom) for top, bottom in zip(tops, bottoms, strict=True)]
    values = np.array([float(one.ratio) for one in moments])
    floor = np.asarray(abs(sum(top.sum() for top in tops) / sum(b.sum() for b in bottoms)))
    variances = np.array([float(one.variance(floor)) for one in moments])
    covariates = _covariates(rule, bottom_name, arms)
    if covariates is None:
        return ArmValues(values, variances, None)
    linear = [
        (top - value * bottom) / bottom.mean()
        for top, bottom, value in zip(tops, bottoms, values, strict=True)
    ]
    centered = [column - column.mean() for column in covariates]
    spread = sum(float(column @ column) for column in centered)
    if not spread > 0:
        return ArmValues(values, variances, None)
    theta = sum(float(v @ c) for v, c in zip(linear, centered, strict=True)) / spread
    center = float(np.concatenate(covariates).mean())
    moved = values - theta * (np.array([column.mean() for column in covariates]) - center)
    left = [
        float(np.square(v - theta * c).sum()) / ((len(v) - 1) * len(v))
        for v, c in zip(linear, centered, strict=True)
    ]
    least = [(float(floor) / len(v)) ** 2 for v in linear]
    return ArmValues(moved, np.maximum(left, least), theta)


def _bounded(columns: list[Values], rule: MetricRule) -> list[Values]:
    """Values above the rule's quantile of all arms together set to it."""
    if rule.winsorise is None:
        return columns
    bound = np.quantile(np.concatenate(columns), rule.winsorise, method="inverted_cdf")
    return [np.minimum(column, bound) for column in columns]


def _covariates(
    rule: MetricRule, bottom_name: str, arms: Sequence[ArmSample]
) -> list[Values] | None:
    """What the past says of each user, 0 without one, [U] per arm."""
    pairs = []
    for arm in arms:
        nothing = np.full(arm.n_users, np.nan)
        past = arm.before or {}
        pairs.append((past.get(rule.numerator, nothing), past.get(bottom_name, nothing)))
    known = [np.isfinite(top) & np.isfinite(bottom) for top, bottom in pairs]
    n_known = sum(int(rows.sum()) for rows in known)
    tops = [np.where(rows, top, 0.0) for (top, _), rows in zip(pairs, known, strict=True)]
    if rule.winsorise is not None and n_known:
        pooled = np.concatenate([t[rows] for t, rows in zip(tops, known, strict=True)])
        bound = np.quantile(pooled, rule.winsorise, method="inverted_cdf")
        tops = [np.minimum(top, bound) for top in tops]
    bottoms = [np.where(rows, bottom, 0.0) for (_, bottom), rows in zip(pairs, known, strict=True)]
    total = sum(float(bottom.sum()) for bottom in bottoms)
    if n_known < MIN_PAST_USERS or not total > 0:
        return None
    ratio, mean = sum(float(top.sum()) for top in tops) / total, total / n_known
    return [(t - ratio * b) / mean for t, b in zip(tops, bottoms, strict=True)]
