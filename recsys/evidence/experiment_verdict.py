"""What an experiment's sides say: each treatment beside control, and the verdict. Pure.

NaN, absent users and sides that cannot be compared never pass, and never raise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.comparison import Comparison, Verdict, compare
from recsys.evidence.experiment_design import ExperimentDesign
from recsys.evidence.judgement import SAMPLE_RATIO_ALPHA
from recsys.evidence.metric_rules import METRICS, Better, MetricRule, Role, Shape
from recsys.evidence.sample_ratio import log_bayes_factor
from recsys.experiment_plan import CONTROL


@dataclass(frozen=True, slots=True)
class SideResult:
    """One treatment beside control."""

    arm: str
    primary: Comparison
    others: tuple[Comparison, ...]
    """Exploratory: they decide nothing."""
    width_without_past: float
    """Width of the primary interval without CUPED; NaN where there is none."""

    @property
    def is_better(self) -> bool:
        """Whether the primary interval is a gain as a whole."""
        one = self.primary
        return one.high < 0 if one.better is Better.LOWER else one.low > 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        plain = self.width_without_past
        return {
            "arm": self.arm,
            "is_better": self.is_better,
            "primary": self.primary.to_json(),
            "width_without_past": plain if math.isfinite(plain) else None,
            "others": [one.to_json() for one in self.others],
        }


@dataclass(frozen=True, slots=True)
class ExperimentVerdict:
    """The verdict by the declared primary metric, or why there is none."""

    verdict: Verdict | None
    """None where the sides cannot be compared at all."""
    winner: str | None
    """The passing treatment with the greatest gain."""
    message: str
    needed: str
    sample_ratio_p: float | None
    sides: tuple[SideResult, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "verdict": None if self.verdict is None else str(self.verdict),
            "winner": self.winner,
            "message": self.message,
            "needed": self.needed,
            "sample_ratio_p": self.sample_ratio_p,
            "sides": [side.to_json() for side in self.sides],
        }


def judge_experiment(design: ExperimentDesign, arms: Mapping[str, ArmSample]) -> ExperimentVerdict:
    """Compare every treatment with control; alpha is split evenly over the treatments.

    The verdict is a pass if one treatment excludes a loss beyond the margin, a fail if all show
    one. Other metrics share an alpha of their own and decide nothing.
    """
    counts = [arms[arm.name].n_users for arm in design.plan.arms]
    p = sample_ratio([arm.share for arm in design.plan.arms], counts)
    problem = _problem(design, arms, p)
    if problem is not None:
        return ExperimentVerdict(None, None, problem, "users of every side", p, ())
    alpha = design.alpha / len(design.treatments)
    others = [rule for rule in METRICS.values() if _is_shown(rule, design, arms.values())]
    sides = tuple(
        _side(design.rule, others, arms[CONTROL], arms[name], name, alpha)
        for name in design.treatments
    )
    return _verdict(sides, p)


def sample_ratio(shares: Sequence[float], counts: Sequence[int]) -> float | None:
    """An always-valid p value of the sides' numbers of users; None without any."""
    if not sum(counts):
        return None
    return math.exp(-max(log_bayes_factor(counts, shares), 0.0))


def told(comparison: Comparison, arm: str) -> Comparison:
    """The comparison in the words of an experiment."""
    message = comparison.message.replace("baseline", CONTROL).replace("canary", arm)
    return replace(comparison, message=message)


def _problem(
    design: ExperimentDesign, arms: Mapping[str, ArmSample], p: float | None
) -> str | None:
    counts = {arm.name: arms[arm.name].n_users for arm in design.plan.arms}
    said = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    if not any(counts.values()):
        return "no user has a slate whose label window is closed yet"
    if p is not None and p < SAMPLE_RATIO_ALPHA:
        return (
            f"SAMPLE RATIO MISMATCH: users of {said} are not the split that was set (p {p:.2g}); "
            "something chooses who is counted, so no difference between them can be trusted; "
            "find out who is missing"
        )
    empty = [name for name, n in counts.items() if not n]
    if empty:
        return f"NO USERS of {', '.join(empty)} (users: {said}); see whether its bundle answers"
    return None


def _is_shown(rule: MetricRule, design: ExperimentDesign, arms: Any) -> bool:
    """Whether a further metric can be computed of every side."""
    if rule.name == design.metric or rule.shape is Shape.QUANTILE:
        return False
    if rule.shape is Shape.RATE:
        return all({rule.numerator, rule.denominator} <= arm.counts.keys() for arm in arms)
    names = {name for name in (rule.numerator, rule.denominator) if name}
    return all(names <= arm.users.keys() for arm in arms)


def _side(
    rule: MetricRule,
    others: Sequence[MetricRule],
    control: ArmSample,
    treated: ArmSample,
    name: str,
    alpha: float,
) -> SideResult:
    primary = told(compare(rule, control, treated, alpha), name)
    plain = compare(rule, replace(control, before=None), replace(treated, before=None), alpha)
    width = plain.high - plain.low
    found = tuple(
        told(compare(replace(one, role=Role.SIGNAL), control, treated, alpha / len(others)), name)
        for one in others
    )
    return SideResult(name, primary, found, width if math.isfinite(width) else math.nan)


def _verdict(sides: tuple[SideResult, ...], p: float | None) -> ExperimentVerdict:
    passing = [side for side in sides if side.primary.verdict is Verdict.PASS]
    if passing:
        best = max(passing, key=_gain)
        said = "is better than control" if best.is_better else "is not worse than the margin allows"
        message = f"{best.arm} {said}: {best.primary.message}"
        return ExperimentVerdict(Verdict.PASS, best.arm, message, "", p, sides)
    is_lost = all(side.primary.verdict is Verdict.FAIL for side in sides)
    verdict = Verdict.FAIL if is_lost else Verdict.INCONCLUSIVE
    undecided = [side for side in sides if side.primary.verdict is Verdict.INCONCLUSIVE]
    best = max(undecided or sides, key=_gain)
    message = f"{best.arm}: {best.primary.message}"
    return ExperimentVerdict(verdict, None, message, best.primary.needed, p, sides)


def _gain(side: SideResult) -> float:
    effect = side.primary.effect
    if math.isnan(effect):
        return -math.inf
    return -effect if side.primary.better is Better.LOWER else effect
