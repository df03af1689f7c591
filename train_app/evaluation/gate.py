"""The gate: may a trained bundle be published? A pure decision on held-out metrics.

Knows numbers per query; not how they were measured or what publishing is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataRefused
from recsys.learning_settings import GateSettings
from train_app.evaluation.metrics import Interval, Values, bootstrap_mean


@dataclass(frozen=True)
class Measured:
    """The gate's metric per held-out engagement, [Q], of the new bundle and what it must beat."""

    page: Values
    popularity: Values
    users: NDArray[np.int64]
    stable: Values | None = None
    """Of the stable bundle; `None` if there is none to compare with."""
    comparable: NDArray[np.bool_] | None = None
    """[Q] the engagements that the stable bundle was not trained on; `None` is all."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the gate with the figures it was decided on."""

    name: str
    figure: float
    bound: float
    passed: bool
    remedy: str
    """What would have changed it."""

    def sentence(self) -> str:
        """The rule as one line."""
        verdict = "passed" if self.passed else "refused"
        figure, bound = _number(self.figure), _number(self.bound)
        return f"{self.name}: {figure}, at least {bound} expected: {verdict}"


@dataclass(frozen=True)
class GateDecision:
    """Every rule, and the paired difference to the stable bundle where it was compared."""

    metric: str
    n_evaluated: int
    rules: tuple[Rule, ...]
    versus_stable: Interval | None = None

    @property
    def passed(self) -> bool:
        """Whether the bundle may be published."""
        return all(rule.passed for rule in self.rules)

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "passed": self.passed,
            "metric": self.metric,
            "n_evaluated": self.n_evaluated,
            "versus_stable": None if self.versus_stable is None else self.versus_stable.as_dict(),
            "rules": [
                {
                    "name": rule.name,
                    "figure": rule.figure if np.isfinite(rule.figure) else None,
                    "bound": rule.bound if np.isfinite(rule.bound) else None,
                    "passed": rule.passed,
                    "remedy": rule.remedy,
                }
                for rule in self.rules
            ],
        }

    def require_passed(self) -> None:
        """Let a passed bundle through.

        Raises:
            DataRefused: a rule refused; the sentence says which, its figures and the remedy.
        """
        refused = [rule for rule in self.rules if not rule.passed]
        if refused:
            reasons = "; ".join(f"{rule.sentence()} ({rule.remedy})" for rule in refused)
            raise DataRefused(
                f"the gate refused the bundle on {self.metric} of {self.n_evaluated} held-out "
                f"engagements, nothing was published: {reasons}"
            )


def decide(measured: Measured, gate: GateSettings, seed: int) -> GateDecision:
    """Apply every rule; no data and numbers that are not finite are refused.

    Args:
        seed: of the interval of the difference to the stable bundle.
    """
    n_evaluated = len(measured.page)
    rules = [
        _at_least(
            "held-out engagements",
            float(n_evaluated),
            1.0,
            "import more history, or raise train.holdout_share",
        )
    ]
    if not n_evaluated:
        return GateDecision(gate.metric, 0, tuple(rules))
    page = float(measured.page.mean())
    ratio = gate.min_ratio_popularity
    rules.append(
        _at_least(
            f"page {gate.metric} against {ratio:g} x popularity",
            page,
            ratio * float(measured.popularity.mean()),
            "train longer (train.towers.max_minutes), import more history, or lower "
            "gate.min_ratio_popularity",
        )
    )
    if measured.stable is None:
        return GateDecision(gate.metric, n_evaluated, tuple(rules))
    rule, interval = _against_stable(measured, measured.stable, gate, seed)
    return GateDecision(gate.metric, n_evaluated, (*rules, rule), interval)


def _against_stable(
    measured: Measured, stable: Values, gate: GateSettings, seed: int
) -> tuple[Rule, Interval | None]:
    keep = np.ones(len(stable), np.bool_) if measured.comparable is None else measured.comparable
    name = f"page {gate.metric} against the stable bundle less {gate.max_drop_vs_stable:.0%}"
    remedy = (
        "train with --warm-start or longer (train.towers.max_minutes), or raise "
        "gate.max_drop_vs_stable"
    )
    if not keep.any():
        # Nothing that the stable bundle has not seen: an unfair comparison decides nothing.
        return _at_least(f"{name} (no engagement is new to it)", 0.0, 0.0, remedy), None
    bound = (1.0 - gate.max_drop_vs_stable) * float(stable[keep].mean())
    rule = _at_least(name, float(measured.page[keep].mean()), bound, remedy)
    difference = measured.page[keep] - stable[keep]
    if not np.isfinite(difference).all():
        return rule, None
    return rule, bootstrap_mean(difference, measured.users[keep], seed)


def _at_least(name: str, figure: float, bound: float, remedy: str) -> Rule:
    finite = bool(np.isfinite(figure) and np.isfinite(bound))
    if not finite:
        remedy = f"a figure is not finite; lower train.towers.learning_rate, or {remedy}"
    # Equal up to the rounding of two sums in another order is equal.
    return Rule(name, figure, bound, finite and figure >= bound - 1e-9, remedy)


def _number(value: float) -> str:
    is_count = value >= 1.0 and value.is_integer()
    return f"{value:,.0f}" if is_count else f"{value:.4f}"
