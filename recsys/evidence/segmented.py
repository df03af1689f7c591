"""An experiment's primary metric among some of the users: by segment, and day by day. Pure.

Exploratory: who looks at twenty segments finds one that differs, so alpha is split over the rows
that one segmentation may ever have (Bonferroni), and none of them makes a verdict. What each row
gets is settled when its first user comes, so its interval depends on its own users alone and all
that were ever shown hold together, however many values come.
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
"""Values that are shown at most."""
EARLY_VALUES = 8
"""The first so many values that come share half of alpha evenly, all later ones the other half."""


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
    arrived: Sequence[str],
    n_values: int | None = None,
) -> tuple[SegmentEffect, ...]:
    """The effect of each treatment by value, the value with most users first, `MAX_VALUES` at most.

    Args:
        arrived: the values in the order of their first users, which later looks only add to.
        n_values: how many there can be, where that is known: they share alpha evenly.
    """
    place = {value: number for number, value in enumerate(arrived, 1)}
    effects: list[SegmentEffect] = []
    for value in _frequent(labels)[:MAX_VALUES]:
        sides = {name: users_of(arm, labels[name] == value) for name, arm in arms.items()}
        share = 1 / n_values if n_values else alpha_share(place[value])
        effects += _effects(design, value, sides, design.alpha * share)
    return tuple(effects)


def alpha_share(number: int) -> float:
    """What share of alpha the value that came as this number gets, counted from 1.

    1/16 for each of the first eight, then 4 / (n (n - 1)): all of them sum to 1.
    """
    if number <= EARLY_VALUES:
        return 0.5 / EARLY_VALUES
    return 0.5 * EARLY_VALUES / (number * (number - 1))


def not_shown(labels: Labels) -> tuple[int, int]:
    """How many values `by_segment` leaves out, and of how many users."""
    rare = _frequent(labels)[MAX_VALUES:]
    return len(rare), sum(int(np.isin(column, rare).sum()) for column in labels.values())


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


def _frequent(labels: Labels) -> list[str]:
    """The values by their number of users."""
    values, counts = np.unique(np.concatenate(list(labels.values())), return_counts=True)
    return [str(value) for value in values[np.lexsort((values, -counts))]]
