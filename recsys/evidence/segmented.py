"""An experiment's primary metric among some of the users: by segment, and day by day. Pure.

Exploratory: who looks at twenty segments finds one that differs, so alpha is split over the rows
that one segmentation may have (Bonferroni), and none of them makes a verdict. What each row gets is
settled before the first look, so a row's interval depends on its own users alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    design: ExperimentDesign,
    arms: Mapping[str, ArmSample],
    labels: Labels,
    n_values: int = MAX_VALUES,
) -> tuple[SegmentEffect, ...]:
    """The effect of each treatment by value, the value with most users first.

    Args:
        n_values: how many values are shown at most; alpha is divided by it however many there are.
    """
    values, labels = _frequent(labels, n_values)
    effects: list[SegmentEffect] = []
    for value in values:
        sides = {name: users_of(arm, labels[name] == value) for name, arm in arms.items()}
        effects += _effects(design, value, sides, design.alpha / n_values)
    return tuple(effects)


def by_day(
    design: ExperimentDesign, days: Mapping[str, Mapping[str, ArmSample]]
) -> tuple[SegmentEffect, ...]:
    """The effect of each treatment among the users of each day (ISO date, UTC), in their order.

    Day n since the start, its own being 1, gets alpha / (n (n + 1)): these sum to alpha however
    long it runs.
    """
    first = np.datetime64(design.from_ms, "ms").astype("datetime64[D]")
    effects: list[SegmentEffect] = []
    for day, sides in sorted(days.items()):
        number = max(int((np.datetime64(day, "D") - first).astype(np.int64)) + 1, 1)
        effects += _effects(design, day, sides, design.alpha / (number * (number + 1)))
    return tuple(effects)


def _effects(
    design: ExperimentDesign, value: str, sides: Mapping[str, ArmSample], alpha: float
) -> Iterator[SegmentEffect]:
    """Each treatment in one part of the users, whose intervals hold together with `alpha`."""
    control = sides[CONTROL]
    for name in design.treatments:
        n = (control.n_users, sides[name].n_users)
        effect, low, high = math.nan, -math.inf, math.inf
        if min(n) >= MIN_USERS:
            found = compare(design.rule, control, sides[name], alpha / len(design.treatments))
            effect, low, high = found.effect, found.low, found.high
        yield SegmentEffect(value, name, n[0], n[1], effect, low, high)


def _frequent(labels: Labels, n_values: int) -> tuple[Sequence[str], Labels]:
    """The values by their number of users, the rare ones as one."""
    columns = list(labels.values())
    values, counts = np.unique(np.concatenate(columns), return_counts=True)
    order = values[np.lexsort((values, -counts))]
    if len(order) <= n_values:
        return [str(value) for value in order], labels
    kept = order[: n_values - 1]
    bounded = {
        name: np.where(np.isin(column, kept), column, REST) for name, column in labels.items()
    }
    return [*(str(value) for value in kept if value != REST), REST], bounded
