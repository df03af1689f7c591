"""An experiment's primary metric among some of the users: by segment, and day by day. Pure.

Exploratory: who looks at twenty segments finds one that differs, so alpha is split over all rows
of one segmentation (Bonferroni), and none of them makes a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.comparison import compare
from recsys.evidence.effect_estimates import MIN_USERS
from recsys.evidence.experiment_design import ExperimentDesign
from recsys.experiment_plan import CONTROL

Labels: TypeAlias = Mapping[str, NDArray[np.str_]]
"""Arm to each user's value of a segmentation, [U] each."""
MAX_VALUES = 8
REST = "other"
"""What a value beyond the most frequent ones is shown as."""


@dataclass(frozen=True, slots=True)
class SegmentEffect:
    """One treatment's effect among the users of one value."""

    value: str
    arm: str
    n_control: int
    n_treated: int
    effect: float
    """NaN, with infinite bounds, where they are too few."""
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a figure that is not finite is null."""
        figures = {"effect": self.effect, "low": self.low, "high": self.high}
        return {
            "value": self.value,
            "arm": self.arm,
            "n_control": self.n_control,
            "n_treated": self.n_treated,
        } | {name: one if math.isfinite(one) else None for name, one in figures.items()}


def users_of(arm: ArmSample, rows: NDArray[np.bool_]) -> ArmSample:
    """The same side with some of its users only."""
    before = arm.before
    if before is not None:
        before = {name: column[rows] for name, column in before.items()}
    return replace(
        arm, users={name: column[rows] for name, column in arm.users.items()}, before=before
    )


def by_segment(
    design: ExperimentDesign, arms: Mapping[str, ArmSample], labels: Labels
) -> tuple[SegmentEffect, ...]:
    """The effect of each treatment by value, the value with most users first."""
    values, labels = _frequent(labels)
    parts = {
        value: {name: users_of(arm, labels[name] == value) for name, arm in arms.items()}
        for value in values
    }
    return side_by_side(design, parts)


def side_by_side(
    design: ExperimentDesign, parts: Mapping[str, Mapping[str, ArmSample]]
) -> tuple[SegmentEffect, ...]:
    """The effect of each treatment in each part of the users, all intervals holding together."""
    enough = [
        (value, name)
        for value, sides in parts.items()
        for name in design.treatments
        if min(sides[CONTROL].n_users, sides[name].n_users) >= MIN_USERS
    ]
    alpha = design.alpha / max(len(enough), 1)
    effects = []
    for value, sides in parts.items():
        for name in design.treatments:
            n = (sides[CONTROL].n_users, sides[name].n_users)
            effect, low, high = math.nan, -math.inf, math.inf
            if (value, name) in enough:
                found = compare(design.rule, sides[CONTROL], sides[name], alpha)
                effect, low, high = found.effect, found.low, found.high
            effects.append(SegmentEffect(value, name, n[0], n[1], effect, low, high))
    return tuple(effects)


def _frequent(labels: Labels) -> tuple[Sequence[str], Labels]:
    """The values by their number of users, the rare ones as one."""
    columns = list(labels.values())
    values, counts = np.unique(np.concatenate(columns), return_counts=True)
    order = values[np.lexsort((values, -counts))]
    if len(order) <= MAX_VALUES:
        return [str(value) for value in order], labels
    kept = order[: MAX_VALUES - 1]
    bounded = {
        name: np.where(np.isin(column, kept), column, REST) for name, column in labels.items()
    }
    return [*(str(value) for value in kept if value != REST), REST], bounded
