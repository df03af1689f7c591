"""Intervals of a relative effect that hold however often one looks: pure, array in, array out.

Asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform
central limit theory and asymptotic confidence sequences", Annals of Statistics 2024, theorem 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values: TypeAlias = NDArray[np.float64]
_LEAST_SCALE = 0.01
_WIDER = 10.0
_WEIGHTS = (0.6, 0.4)
_STEPS = 44
_FARTHEST = 1e6


def mixing_variance(alpha: float, n_tuned: float) -> float:
    """rho squared that makes the interval narrowest about a sample of `n_tuned` (eq. 161)."""
    return (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / n_tuned


def half_width(error: ArrayLike, n: ArrayLike, alpha: float, n_tuned: float) -> Values:
    """Half the width of the interval tuned for one sample size (theorem 2.2).

    Args:
        error: standard error of the estimate.
        n: sample size it was made of.
    """
    spread = np.asarray(n, np.float64) * mixing_variance(alpha, n_tuned)
    factor = 2 * (spread + 1) / spread * np.log(np.sqrt(spread + 1) / alpha)
    return np.asarray(np.asarray(error, np.float64) * np.sqrt(factor))


def effect_scales(scale: float, alpha: float) -> tuple[float, float]:
    """Standard deviations of the two mixed effects, as relative effects.

    With the first the interval is narrowest when it is half `scale` wide to each side of the
    estimate; the second, ten times as wide, sees a large loss early. Neither depends on data.
    """
    spread = mixing_variance(alpha, 1.0)
    factor = math.sqrt(2 * (spread + 1) / spread * math.log(math.sqrt(spread + 1) / alpha))
    narrow = max(scale, _LEAST_SCALE) * math.sqrt(spread) / factor
    return narrow, _WIDER * narrow


def log_evidence(distance: ArrayLike, error: ArrayLike, scales: Sequence[ArrayLike]) -> Values:
    """Log of the mixture martingale against an effect `distance` away from the estimate.

    A mixture of Robbins' normal mixtures: sum over k of
    w_k (1 + x_k)^-1/2 exp(z^2 x_k / (2 (1 + x_k))), where x_k = (scale_k / error)^2 and
    z = distance / error. With one scale, rejecting at 1 / alpha is theorem 2.2 with rho^2 n = x.
    """
    error = np.asarray(error, np.float64)
    z_squared = np.square(np.asarray(distance, np.float64) / error)
    weights = _WEIGHTS if len(scales) == len(_WEIGHTS) else (1 / len(scales),) * len(scales)
    terms = []
    for weight, scale in zip(weights, scales, strict=True):
        x = np.square(np.asarray(scale, np.float64) / error)
        terms.append(math.log(weight) - np.log1p(x) / 2 + z_squared * x / (1 + x) / 2)
    return np.asarray(np.logaddexp.reduce(np.broadcast_arrays(*terms), axis=0))


def relative_interval(
    baseline: ArrayLike,
    baseline_variance: ArrayLike,
    canary: ArrayLike,
    canary_variance: ArrayLike,
    *,
    alpha: float,
    scale: float,
) -> tuple[Values, Values]:
    """Low and high of (canary - baseline) / baseline; infinite where the data bound nothing.

    Inverts the test of canary - (1 + effect) baseline = 0 (Fieller 1954), whose variance is that
    under the effect tested: unlike the plain delta method it holds where the baseline is uncertain.

    Args:
        baseline: estimate of the baseline's value, above 0.
        baseline_variance: squared standard error of it.
        scale: the effect that the interval is tuned to tell.
    """
    base = np.asarray(baseline, np.float64)
    ratio = np.asarray(canary, np.float64) / base
    base_part = np.asarray(baseline_variance, np.float64) / base**2
    own_part = np.asarray(canary_variance, np.float64) / base**2
    own_scales, limit = effect_scales(scale, alpha), -math.log(alpha)
    unit = np.sqrt(own_part + np.square(ratio) * base_part)

    def is_inside(step: Values, sign: float) -> NDArray[np.bool_]:
        tested = ratio + sign * unit * step
        with np.errstate(all="ignore"):
            error = np.sqrt(own_part + np.square(tested) * base_part)
            # Another effect is tested by another sum, whose spread grows as this does.
            wider = np.sqrt((1 + np.square(tested)) / 2)
            found = log_evidence(unit * step, error, [one * wider for one in own_scales])
            return np.asarray(found < limit)

    def end(sign: float) -> Values:
        inside, outside = np.zeros(ratio.shape), np.full(ratio.shape, _FARTHEST)
        is_open = is_inside(outside, sign)
        for _ in range(_STEPS):
            # Halving what is left of a range of many magnitudes: geometric above 1.
            middle = np.where(outside > 1, np.sqrt(np.maximum(inside, 0.01) * outside), 0.5)
            middle = np.where(outside <= 1, (inside + outside) / 2, middle)
            inner = is_inside(middle, sign)
            inside, outside = np.where(inner, middle, inside), np.where(inner, outside, middle)
        return np.where(is_open, sign * np.inf, ratio - 1 + sign * unit * outside)

    return end(-1.0), end(1.0)
