"""What a 2 x 2 says of each factor and of both together: pure.

Differences of differences of the per-user metric, relative to control. The relative effect of a
contrast is tested as Fieller tests a ratio: with the variance under the effect that is tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.arm_values import arm_values
from recsys.evidence.confidence_sequence import effect_scales, log_evidence
from recsys.evidence.experiment_design import BOTH, FACTORIAL_ARMS, RETRIEVER, SCORER
from recsys.evidence.metric_rules import MetricRule
from recsys.experiment_plan import CONTROL

Values: TypeAlias = NDArray[np.float64]
INTERACTION = "interaction"
_CONTRASTS: Mapping[str, Mapping[str, float]] = {
    RETRIEVER: {CONTROL: -0.5, SCORER: -0.5, RETRIEVER: 0.5, BOTH: 0.5},
    SCORER: {CONTROL: -0.5, RETRIEVER: -0.5, SCORER: 0.5, BOTH: 0.5},
    INTERACTION: {CONTROL: 1.0, RETRIEVER: -1.0, SCORER: -1.0, BOTH: 1.0},
}
_FARTHEST = 1e3
"""Relative effects beyond are not told from infinite ones."""
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class FactorialEffect:
    """A main effect, averaged over the other factor, or the interaction; relative to control."""

    name: str
    effect: float
    low: float
    high: float


def factorial_effects(
    rule: MetricRule, arms: Mapping[str, ArmSample], alpha: float
) -> tuple[FactorialEffect, ...]:
    """Both main effects and the interaction, with intervals that hold together at any look.

    Alpha is split evenly over the three. Nothing where the arms bear no estimate.
    """
    found = arm_values(rule, [arms[name] for name in FACTORIAL_ARMS])
    if found is None or not found.values[0] > 0:
        return ()
    effects = []
    for name, weights in _CONTRASTS.items():
        contrast = np.array([weights[arm] for arm in FACTORIAL_ARMS])
        low, high = contrast_interval(
            found.values, found.variances, contrast, alpha / len(_CONTRASTS), rule.margin
        )
        effect = float(contrast @ found.values) / float(found.values[0])
        effects.append(FactorialEffect(name, effect, low, high))
    return tuple(effects)


def contrast_interval(
    values: Values, variances: Values, contrast: Values, alpha: float, scale: float
) -> tuple[float, float]:
    """Low and high of `contrast @ truth / truth[0]`, at any look; infinite where nothing bounds it.

    Args:
        values: estimates of independent arms, the first is control's and above 0, [A].
        variances: their squared standard errors, [A].
        contrast: weights of the arms, [A].
        scale: the relative effect that the interval is tuned to tell.
    """
    relative, parts = values / values[0], variances / values[0] ** 2
    scales = effect_scales(scale, alpha)
    estimate = float(contrast @ relative)
    limit = -math.log(alpha)

    def is_outside(effect: float) -> bool:
        weights = contrast.copy()
        weights[0] -= effect
        error = math.sqrt(float(np.square(weights) @ parts))
        if error == 0:
            return effect != estimate
        return bool(log_evidence(float(weights @ relative), error, scales) >= limit)

    unit = math.sqrt(float(np.square(contrast) @ parts)) or 1e-9
    ends = [_end(is_outside, estimate, sign * unit) for sign in (-1.0, 1.0)]
    return ends[0], ends[1]


def _end(is_outside: Callable[[float], bool], start: float, step: float) -> float:
    """Where the interval ends on the side of `step`, by doubling and then halving."""
    reach = abs(step)
    while not is_outside(start + math.copysign(reach, step)):
        reach *= 2
        if reach > _FARTHEST:
            return math.copysign(math.inf, step)
    inside, outside = 0.0, reach
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if is_outside(start + math.copysign(middle, step)):
            outside = middle
        else:
            inside = middle
    return start + math.copysign(outside, step)
