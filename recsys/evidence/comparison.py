"""One metric of canary beside baseline: values, interval, verdict, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.effect_estimates import Estimate, NoEstimate, estimate
from recsys.evidence.metric_rules import Better, MetricRule, Role, Shape

_TIMES = 2.0 ** (np.arange(1, 61) / 3)
"""How many times as much data a forecast looks at."""
_COARSE = 6
"""Of a quantile, the dearest, every sixth first: what is decided stays so as data grow."""


class Verdict(StrEnum):
    """What evidence says."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Interval:
    """Of (canary - baseline) / baseline, of a rate the difference; it holds at every look."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric's values, effect and verdict; NaN where there is none."""

    metric: str
    role: Role
    better: Better
    margin: float
    n_baseline: int
    """Users; of rates and latencies: requests."""
    n_canary: int
    baseline: float
    canary: float
    effect: float
    low: float
    high: float
    verdict: Verdict
    message: str
    needed: str = ""
    """What would decide it, or nothing where it is decided."""

    @property
    def interval(self) -> Interval:
        """Of the effect."""
        return Interval(self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a figure that is not finite is null."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        } | {"role": str(self.role), "better": str(self.better), "verdict": str(self.verdict)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Comparison:
        """The comparison of a JSON object; a bound that is null is infinite, another figure NaN.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        absent = {"low": -math.inf, "high": math.inf}
        figures = {
            name: absent.get(name, math.nan) if document[name] is None else float(document[name])
            for name in ("margin", "baseline", "canary", "effect", "low", "high")
        }
        return cls(
            metric=str(document["metric"]),
            role=Role(document["role"]),
            better=Better(document["better"]),
            n_baseline=int(document["n_baseline"]),
            n_canary=int(document["n_canary"]),
            verdict=Verdict(document["verdict"]),
            message=str(document["message"]),
            needed=str(document["needed"]),
            **figures,
        )


def compare(rule: MetricRule, baseline: ArmSample, canary: ArmSample, alpha: float) -> Comparison:
    """Judge one metric; the interval misses the true effect at any look with chance alpha.

    FAIL: the whole interval is a loss beyond the margin. PASS: no such loss is inside.
    """
    found = estimate(rule, baseline, canary, alpha)
    if isinstance(found, NoEstimate):
        return _nothing(rule, found)
    low, high = (float(end[0]) for end in found.bounds(np.ones(1)))
    if math.isnan(low) or math.isnan(high) or math.isnan(found.effect):
        n = (found.n_baseline, found.n_canary)
        said = "its interval cannot be computed from these values"
        return _nothing(
            rule, NoEstimate(n[0], n[1], found.baseline, found.canary, said, "other values")
        )
    verdict = _verdict(rule, low, high)
    return Comparison(
        rule.name, rule.role, rule.better, rule.margin, found.n_baseline, found.n_canary,
        found.baseline, found.canary, found.effect, low, high, verdict,
        _message(rule, found, Interval(low, high), verdict),
        "" if verdict is not Verdict.INCONCLUSIVE else _needed(rule, found),
    )  # fmt: skip


def _verdict(rule: MetricRule, low: float, high: float) -> Verdict:
    if rule.better is Better.LOWER:
        low, high = -high, -low
    if high < -rule.margin:
        return Verdict.FAIL
    return Verdict.PASS if low > -rule.margin else Verdict.INCONCLUSIVE


def _nothing(rule: MetricRule, why: NoEstimate) -> Comparison:
    return Comparison(
        rule.name, rule.role, rule.better, rule.margin, why.n_baseline, why.n_canary,
        why.baseline, why.canary, math.nan, -math.inf, math.inf, Verdict.INCONCLUSIVE,
        f"{rule.name}: {why.reason}", why.needed,
    )  # fmt: skip


def _needed(rule: MetricRule, found: Estimate) -> str:
    """How much more data would decide if values and spread stay what they are."""
    times = _TIMES
    if rule.shape is Shape.QUANTILE:
        coarse = _first_decided(rule, found, _TIMES[_COARSE - 1 :: _COARSE])
        times = times[:0] if coarse is None else times[coarse * _COARSE :][:_COARSE]
    place = _first_decided(rule, found, times) if len(times) else None
    if place is not None:
        more = float(times[place]) - 1
        more *= min(found.n_baseline, found.n_canary)
        return f"about {_round(more):,} more {found.unit} per arm"
    return f"an effect that differs more from the allowed {_size(rule, rule.margin)}"


def _first_decided(rule: MetricRule, found: Estimate, times: NDArray[np.float64]) -> int | None:
    """The place of the first of so many times as much data that decides."""
    ends = zip(*(end.tolist() for end in found.bounds(times)), strict=True)
    for place, (low, high) in enumerate(ends):
        if _verdict(rule, low, high) is not Verdict.INCONCLUSIVE:
            return place
    return None


def _message(rule: MetricRule, found: Estimate, interval: Interval, verdict: Verdict) -> str:
    ends = [
        "anything" if math.isinf(end) else _signed(rule, end)
        for end in (interval.low, interval.high)
    ]
    allowed = f"allowed {_size(rule, rule.margin)}"
    said = {
        Verdict.FAIL: f"a loss beyond the {allowed}",
        Verdict.PASS: f"no loss beyond the {allowed}",
        Verdict.INCONCLUSIVE: f"a loss beyond the {allowed} is neither shown nor excluded",
    }[verdict]
    values = f"canary {_value(rule, found.canary)} against baseline {_value(rule, found.baseline)}"
    effect = _signed(rule, found.effect)
    return f"{rule.name}: {values} ({effect}, interval {ends[0]} to {ends[1]}), {said}"


def _value(rule: MetricRule, value: float) -> str:
    if rule.shape is Shape.RATE:
        return f"{value:.2%}"
    text = f"{value:.3g}" if 1e-3 <= abs(value) < 1e6 or not value else f"{value:.2e}"
    return f"{text} ms" if rule.shape is Shape.QUANTILE else text


def _signed(rule: MetricRule, effect: float) -> str:
    unit = "points" if rule.shape is Shape.RATE else "%"
    return f"{100 * effect:+.1f} {unit}"


def _size(rule: MetricRule, size: float) -> str:
    return f"{100 * size:.3g} {'points' if rule.shape is Shape.RATE else '%'}"


def _round(count: float) -> int:
    """Two digits are all that such a forecast is worth."""
    digits = max(len(str(int(count))) - 2, 0)
    return max(int(round(count, -digits)), 1)
