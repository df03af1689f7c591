"""Differences between users that were there before the rollout, taken out: pure.

CUPED (Deng, Xu, Kohavi & Walker, "Improving the sensitivity of online controlled experiments by
utilizing pre-experiment data", WSDM 2013), for ratios on their linearised values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]
MIN_PAST_USERS = 50
"""With fewer users of known past over both arms nothing is adjusted."""


@dataclass(frozen=True)
class UserValues:
    """Numerators and denominators of one arm's users, now and before (NaN: no past), [U] each."""

    top: Values
    bottom: Values
    top_before: Values
    bottom_before: Values


@dataclass(frozen=True)
class Adjusted:
    """Both arms' values with what the past explains taken out."""

    theta: float
    shift_baseline: float
    """Added to the baseline's ratio."""
    shift_canary: float
    variance_baseline: float
    variance_canary: float


def adjust(baseline: UserValues, canary: UserValues) -> Adjusted | None:
    """The adjusted ratios' shifts and squared errors; None where the past explains nothing.

    A user's covariate is (N' - R' D') / mean(D') of the past, R' over both arms; without a past
    it is the mean, 0. theta = cov(value, covariate) / var(covariate), pooled over both arms
    around each arm's mean, so that an effect of the canary does not enter it.
    """
    covariates = _covariates(baseline, canary)
    if covariates is None:
        return None
    values = tuple(_linearised(arm.top, arm.bottom) for arm in (baseline, canary))
    centered = tuple(column - column.mean() for column in covariates)
    spread = sum(float(column @ column) for column in centered)
    if not spread > 0:
        return None
    joint = sum(float(v @ c) for v, c in zip(values, centered, strict=True))
    theta = joint / spread
    # The mean over everybody is taken out of both alike: it cancels in their difference.
    center = float(np.concatenate(covariates).mean())
    shifts = [-theta * (float(column.mean()) - center) for column in covariates]
    variances = [
        float(np.square(v - theta * c).sum()) / ((len(v) - 1) * len(v))
        for v, c in zip(values, centered, strict=True)
    ]
    return Adjusted(theta, shifts[0], shifts[1], variances[0], variances[1])


def _covariates(baseline: UserValues, canary: UserValues) -> tuple[Values, Values] | None:
    """Both arms' covariates, [U] each; None where too few users have a past."""
    arms = (baseline, canary)
    known = [np.isfinite(arm.top_before) & np.isfinite(arm.bottom_before) for arm in arms]
    n_known = sum(int(rows.sum()) for rows in known)
    pairs = list(zip(arms, known, strict=True))
    bottom = sum(float(arm.bottom_before[rows].sum()) for arm, rows in pairs)
    if n_known < MIN_PAST_USERS or not bottom > 0 or min(len(arm.top) for arm in arms) < 2:
        return None
    ratio = sum(float(arm.top_before[rows].sum()) for arm, rows in pairs) / bottom
    mean = bottom / n_known
    first, second = (
        np.where(rows, (arm.top_before - ratio * arm.bottom_before) / mean, 0.0)
        for arm, rows in pairs
    )
    return first, second


def _linearised(top: Values, bottom: Values) -> Values:
    """Each user's influence on the ratio, times the number of users; sums to 0, [U]."""
    return np.asarray((top - top.sum() / bottom.sum() * bottom) / bottom.mean())
