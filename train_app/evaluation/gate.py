"""The gate: may a trained bundle be published? A pure decision on held-out metrics.

Knows numbers per query; not how they were measured or what publishing is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataRefused
from recsys.learning_settings import GateSettings
from train_app.evaluation.gate_guardrails import Guarded, answered, guardrails
from train_app.evaluation.gate_rules import TOO_FEW, Rule, at_least, interval_over_users
from train_app.evaluation.metrics import Interval, Values


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
    guarded: Guarded | None = None
    """The pages that the guardrails look at; `None` leaves them out."""


@dataclass(frozen=True)
class GateDecision:
    """Every rule, and the paired difference to the stable bundle where it was compared."""

    metric: str
    n_evaluated: int
    rules: tuple[Rule, ...]
    versus_stable: Interval | None = None
    least_drop_shown: float | None = None
    """The smallest drop below the stable bundle, as a share, that so many engagements can show."""

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
            "least_drop_shown": self.least_drop_shown,
            "rules": [rule.as_dict() for rule in self.rules],
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
        seed: of the intervals of what is compared with the stable bundle.
    """
    n_evaluated = len(measured.page)
    rules = [
        at_least(
            "held-out engagements",
            float(n_evaluated),
            1.0,
            "import more history, or raise train.holdout_share",
        )
    ]
    if not n_evaluated:
        return GateDecision(gate.metric, 0, tuple(rules))
    ratio = gate.min_ratio_popularity
    rules.append(
        at_least(
            f"page {gate.metric} against {ratio:g} x popularity",
            float(measured.page.mean()),
            ratio * float(measured.popularity.mean()),
            "train longer (train.towers.max_minutes), import more history, or lower "
            "gate.min_ratio_popularity",
        )
    )
    if measured.guarded is not None:
        rules.append(answered(measured.guarded))
    versus = None
    if measured.stable is not None and gate.against_stable != "off":
        versus = _against_stable(measured, measured.stable, gate, seed)
        rules.append(versus.rule)
    if measured.guarded is not None:
        rules += guardrails(measured.guarded, gate, seed)
    return GateDecision(
        gate.metric,
        n_evaluated,
        tuple(rules),
        None if versus is None else versus.interval,
        None if versus is None else versus.least_drop_shown,
    )


@dataclass(frozen=True, slots=True)
class _Versus:
    rule: Rule
    interval: Interval | None = None
    least_drop_shown: float | None = None


def _against_stable(measured: Measured, stable: Values, gate: GateSettings, seed: int) -> _Versus:
    """Compare with the stable bundle by the paired bootstrap of the difference over users.

    `not_shown_worse` refuses a mean drop beyond the allowed one that is no chance, so an equal
    bundle passes 39 times in 40 however little data there is; `shown_not_worse` is a test of
    non-inferiority, which an equal bundle passes only where there is data enough. Of too few
    users the interval has no bounds: the one passes, the other refuses.
    """
    keep = np.ones(len(stable), np.bool_) if measured.comparable is None else measured.comparable
    name = f"page {gate.metric} minus the stable bundle's"
    remedy = (
        "train with --warm-start or longer (train.towers.max_minutes), or raise "
        "gate.max_drop_vs_stable"
    )
    if not keep.any():
        # Nothing that the stable bundle has not seen: an unfair comparison decides nothing.
        return _Versus(at_least(f"{name} (no engagement is new to it)", 0.0, 0.0, remedy))
    level = float(stable[keep].mean())
    allowed = gate.max_drop_vs_stable * level
    difference = measured.page[keep] - stable[keep]
    if not np.isfinite(difference).all():
        return _Versus(at_least(name, float(difference.mean()), -allowed, remedy))
    interval = interval_over_users(difference, measured.users[keep], seed)
    strict = gate.against_stable == "shown_not_worse"
    if strict:
        remedy = f"{remedy}, or let gate.against_stable be not_shown_worse"
    if interval is None:
        rule = at_least(name, float(difference.mean()), -allowed, remedy, TOO_FEW)
        return _Versus(replace(rule, passed=not strict), least_drop_shown=1.0)
    noise = max(interval.high - interval.mean, 0.0)
    shown = max(allowed, noise) / level if level > 0 else None
    rule = at_least(
        f"{name}, low end of the 95 % interval" if strict else name,
        interval.low if strict else interval.mean,
        -allowed if strict else -max(allowed, noise),
        remedy,
        f"{int(keep.sum()):,} engagements, stable has {level:.4f}",
    )
    return _Versus(rule, interval, shown)
