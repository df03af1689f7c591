"""One rule of the gate: a figure, the bound it was held against, and what would have changed it.

Pure; knows neither what the figure measures nor where the bound was declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from train_app.evaluation.metrics import Interval, Values, bootstrap_mean

_TIE = 1e-9
"""Equal up to the rounding of two sums in another order is equal."""
MIN_USERS = 10
"""Resampling fewer users than this says nothing of chance: of one user it has no width at all."""
TOO_FEW = f"fewer than {MIN_USERS} users are too few to tell"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the gate with the figures it was decided on."""

    name: str
    figure: float
    bound: float
    passed: bool
    remedy: str
    """What would have changed it."""
    side: Literal["at least", "at most"] = "at least"
    """On which side of the bound the figure is expected."""
    note: str = ""
    """How sure the figure is, where that was asked."""

    def sentence(self) -> str:
        """The rule as one line."""
        verdict = "passed" if self.passed else "refused"
        figure, bound = _number(self.figure), _number(self.bound)
        note = f" ({self.note})" if self.note else ""
        return f"{self.name}: {figure}, {self.side} {bound} expected: {verdict}{note}"

    def as_dict(self) -> Mapping[str, Any]:
        """As a JSON object."""
        return {
            "name": self.name,
            "figure": self.figure if np.isfinite(self.figure) else None,
            "bound": self.bound if np.isfinite(self.bound) else None,
            "side": self.side,
            "passed": self.passed,
            "note": self.note,
            "remedy": self.remedy,
            "sentence": self.sentence(),
        }


def at_least(name: str, figure: float, bound: float, remedy: str, note: str = "") -> Rule:
    """A rule that holds where `figure` reaches `bound`; what is not finite is refused."""
    remedy, finite = _finite(figure, bound, remedy)
    return Rule(name, figure, bound, finite and figure >= bound - _TIE, remedy, note=note)


def at_most(name: str, figure: float, bound: float, remedy: str, note: str = "") -> Rule:
    """A rule that holds where `figure` does not pass `bound`; what is not finite is refused."""
    remedy, finite = _finite(figure, bound, remedy)
    return Rule(name, figure, bound, finite and figure <= bound + _TIE, remedy, "at most", note)


def interval_over_users(values: Values, users: NDArray[np.int64], seed: int) -> Interval | None:
    """The 95 % interval of the mean; `None`, which is without bounds, below `MIN_USERS` users."""
    if len(np.unique(users)) < MIN_USERS:
        return None
    return bootstrap_mean(values, users, seed)


def unless_shown(rule: Rule, breach: Interval | None) -> Rule:
    """The rule, refused only where its breach is more than chance.

    Args:
        breach: by how much the bound was missed, per query, above 0 where it was; refused stays
            refused where the whole 95 % interval is above 0. `None` where users are too few.
    """
    if rule.passed or not np.isfinite(rule.figure):
        return rule
    if breach is None:
        return replace(rule, passed=True, note=f"beyond the bound, but {TOO_FEW}")
    if not np.isfinite(breach.low):
        return rule
    if breach.low > 0:
        return replace(rule, note="the 95 % interval shows it")
    return replace(rule, passed=True, note="beyond the bound, but the 95 % interval is not")


def _finite(figure: float, bound: float, remedy: str) -> tuple[str, bool]:
    if np.isfinite(figure) and np.isfinite(bound):
        return remedy, True
    return f"a figure is not finite; lower train.towers.learning_rate, or {remedy}", False


def _number(value: float) -> str:
    is_count = value >= 1.0 and value.is_integer()
    return f"{value:,.0f}" if is_count else f"{value:.4f}"
