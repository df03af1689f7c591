"""What is judged of a rollout: each metric's measures, its good direction and its allowed loss.

Knows names and numbers alone; a plan may replace a rule by its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Better(StrEnum):
    """Which direction of a metric is good."""

    HIGHER = "higher"
    LOWER = "lower"


class Role(StrEnum):
    """What a metric may do to a rollout."""

    CRITICAL = "critical"
    """It aborts a loss that is shown, and must exclude one before the rollout passes."""
    GUARD = "guard"
    """It aborts a loss that is shown, and is not waited for."""
    SIGNAL = "signal"
    """It holds a loss that is shown, and is not waited for."""


ABORTING = (Role.CRITICAL, Role.GUARD)
"""Who may abort shares alpha."""


class Shape(StrEnum):
    """How a metric is made of measures, which decides its interval."""

    RATIO = "ratio"
    """Sum of numerators over sum of denominators, over users."""
    MEAN = "mean"
    """Mean of the numerators over users."""
    RATE = "rate"
    """Share of requests; compared as an absolute difference."""
    QUANTILE = "quantile"
    """Quantile of the latency of answered requests."""


@dataclass(frozen=True, slots=True)
class MetricRule:
    """One metric and the loss it allows."""

    name: str
    better: Better
    role: Role
    margin: float
    """Allowed loss relative to the baseline's value; of a rate: absolute."""
    shape: Shape
    numerator: str = ""
    """Measure of the users, or count of the requests."""
    denominator: str = ""
    quantile: float = 0.0
    winsorise: float | None = None
    """Users' values above this quantile of both arms together count as that quantile."""


def _rule(name: str, better: Better, role: Role, margin: float, of: str) -> MetricRule:
    """A rule over users' measures: `top/bottom` is a ratio, one name a mean."""
    top, _, bottom = of.partition("/")
    return MetricRule(
        name, better, role, margin, Shape.RATIO if bottom else Shape.MEAN, top, bottom
    )


def _rate(name: str, margin: float, of: str, better: Better = Better.LOWER) -> MetricRule:
    top, _, bottom = of.partition("/")
    return MetricRule(name, better, Role.CRITICAL, margin, Shape.RATE, top, bottom)


def _latency(name: str, role: Role, margin: float, quantile: float) -> MetricRule:
    return MetricRule(name, Better.LOWER, role, margin, Shape.QUANTILE, quantile=quantile)


_UP, _DOWN = Better.HIGHER, Better.LOWER
_RULES = (
    _rate("error_rate", 0.01, "errors/requests"),
    _rate("degraded_share", 0.02, "degraded/requests"),
    _rate("shed_share", 0.02, "shed/requests"),
    _rate("coverage", 0.02, "covered/slates", Better.HIGHER),
    _latency("p50_ms", Role.CRITICAL, 0.25, 0.5),
    # A p99 can only be shown sound by thousands of requests: it holds, and the median aborts.
    _latency("p99_ms", Role.SIGNAL, 0.25, 0.99),
    _rule("ctr", _UP, Role.CRITICAL, 0.02, "engaged_items/shown"),
    _rule("utility", _UP, Role.SIGNAL, 0.02, "utility/slates"),
    _rule("conversion", _UP, Role.SIGNAL, 0.05, "conversions/slates"),
    MetricRule("value_per_user", _UP, Role.SIGNAL, 0.05, Shape.MEAN, "value", winsorise=0.99),
    _rule("session_length_s", _UP, Role.SIGNAL, 0.05, "session_s/sessions"),
    _rule("return_rate", _UP, Role.SIGNAL, 0.05, "returned"),
    _rule("dismiss_rate", _DOWN, Role.SIGNAL, 0.1, "dismissed_items/shown"),
    _rule("diversity", _UP, Role.SIGNAL, 0.1, "diversity/diversity_slates"),
    _rule("novelty", _UP, Role.SIGNAL, 0.1, "novelty/novelty_slates"),
)
METRICS: Mapping[str, MetricRule] = MappingProxyType({rule.name: rule for rule in _RULES})
"""The catalogue: every metric with its usual role and margin."""
