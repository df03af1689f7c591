"""Whether predicted lifts come true: predictions of past rollouts beside what they realised.

A lift is relative: 0.1 is a tenth more than what it is compared with. Pure; knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MIN_ROLLOUTS = 3
"""Fewer say nothing of how a next prediction should be read."""


@dataclass(frozen=True, slots=True)
class Lift:
    """A relative difference with its 95 % interval; no bounds where there are too few users."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class LiftPair:
    """One rollout: what was predicted before it and what came of it."""

    bundle_id: str
    against_id: str
    predicted: Lift
    predicted_by: str
    """The metric it was predicted with."""
    realised: Lift
    realised_by: str
    """What was compared: users at the same time, or days before and after."""

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LiftCalibration:
    """How predictions and outcomes agree over rollouts."""

    n_rollouts: int
    same_sign: float | None
    """Share of the rollouts that went the way they were predicted to go."""
    mean_gap: float | None
    """Mean of realised minus predicted: below 0 predictions promise too much."""
    mean_distance: float | None
    """Mean distance between the two."""
    slope: float | None
    """Realised lift per predicted lift, by least squares through 0; None for few rollouts."""

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def calibrate_lifts(pairs: Sequence[LiftPair]) -> LiftCalibration:
    """Compare predictions with outcomes; without rollouts there is nothing to say."""
    predicted = np.array([pair.predicted.value for pair in pairs], np.float64)
    realised = np.array([pair.realised.value for pair in pairs], np.float64)
    if not len(pairs):
        return LiftCalibration(0, None, None, None, None)
    gaps = realised - predicted
    squares = float(predicted @ predicted)
    is_enough = len(pairs) >= MIN_ROLLOUTS and squares > 0.0
    return LiftCalibration(
        n_rollouts=len(pairs),
        same_sign=float((np.sign(predicted) == np.sign(realised)).mean()),
        mean_gap=float(gaps.mean()),
        mean_distance=float(np.abs(gaps).mean()),
        slope=float(predicted @ realised) / squares if is_enough else None,
    )


def relative_lift(
    value: float, error: float, baseline: float, baseline_error: float, z: float = 1.959963984540054
) -> Lift | None:
    """The lift of one rate over another, with the delta method's interval for the ratio.

    Args:
        value, baseline: rates of two groups of different users.
        error, baseline_error: their standard errors; NaN where users are too few.

    Returns:
        None where there is nothing to compare with.
    """
    if not baseline > 0.0:
        return None
    ratio = value / baseline
    spread = np.hypot(error / baseline, ratio * baseline_error / baseline)
    if not np.isfinite(spread):
        return Lift(ratio - 1.0)
    return Lift(ratio - 1.0, float(ratio - 1.0 - z * spread), float(ratio - 1.0 + z * spread))
