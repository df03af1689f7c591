"""Intervals of a relative effect that hold however often one looks: pure, array in, array out.

Asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform
central limit theory and asymptotic confidence sequences", Annals of Statistics 2024, theorem 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values: TypeAlias = NDArray[np.float64]
_LEAST_SCALE = 0.01
_WIDER = 10.0
_WEIGHTS = (0.6, 0.4)
_FARTHEST = 1e6
"""Standard errors; an effect so far away that is not excluded is not bounded."""
_FINEST = 1e-7
"""A step of Newton's that is so small leaves its square."""
_MOST_STEPS = 60
_SHORT = 1e-5
"""Log evidence that an end found may lack."""
_MOST_HALVINGS = 90


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
    base, *others = np.broadcast_arrays(
        *(np.asarray(one, np.float64) for one in (baseline, baseline_variance, canary,
          canary_variance))
    )  # fmt: skip
    with np.errstate(all="ignore"):
        ratio = others[1] / base
        tested = _Tested(ratio, others[0] / base**2, others[2] / base**2)
        found = _ends(tested, effect_scales(scale, alpha), -math.log(alpha)) - 1
    return np.asarray(found[0]), np.asarray(found[1])


@dataclass(frozen=True)
class _Tested:
    """What is needed to test 1 + effect = `at`: estimate and variances relative to baseline."""

    ratio: Values
    base_part: Values
    own_part: Values

    def variance(self, at: Values) -> Values:
        return self.own_part + np.square(at) * self.base_part

    def at(self, z: Values, sign: Values) -> Values:
        """Which one is z standard errors away, below or above (Fieller's quadratic)."""
        ratio, own, base = self.ratio, self.own_part, self.base_part
        root = z * np.sqrt(np.maximum(own + base * (np.square(ratio) - np.square(z) * own), 0.0))
        # The two solutions' product over the other one, where their difference would cancel.
        is_toward = sign * ratio <= 0
        return np.where(
            is_toward,
            (np.square(ratio) - np.square(z) * own) / (ratio - sign * root),
            (ratio + sign * root) / (1 - np.square(z) * base),
        )


def _ends(tested: _Tested, scales: Sequence[float], limit: float) -> Values:
    """1 + effect where the evidence against it reaches the limit, low and high, [2, ...].

    Newton's method on z, in which the log evidence is nearly a parabola; a step that leaves the
    range known to hold the root is halved instead.
    """
    sign = np.array([-1.0, 1.0]).reshape((2,) + (1,) * tested.ratio.ndim)
    unit = np.sqrt(tested.variance(tested.ratio))
    farthest = tested.ratio + sign * unit * _FARTHEST
    inside = np.zeros(farthest.shape)
    outside = unit * _FARTHEST / np.sqrt(tested.variance(farthest))
    is_open = _evidence(tested, farthest, outside, scales)[0] < limit
    z = np.minimum(_first(tested, scales, limit), outside)
    for _ in range(_MOST_STEPS):
        at = tested.at(z, sign)
        found, slope = _evidence(tested, at, z, scales)
        is_inside = found < limit
        inside, outside = np.where(is_inside, z, inside), np.where(is_inside, outside, z)
        newer = z - (found - limit) / slope
        is_between = (newer >= inside) & (newer <= outside)
        newer = np.where(is_between, newer, (inside + outside) / 2)
        is_close = is_between & (np.abs(newer - z) <= _FINEST * z)
        is_done = is_close | is_open | np.isnan(found)
        z = newer
        if is_done.all():
            break
    at = np.where(unit == 0, tested.ratio, tested.at(z, sign))
    short = ~is_open & (unit > 0) & (_evidence(tested, at, z, scales)[0] < limit - _SHORT)
    if short.any():
        at = np.where(short, _halved(tested, scales, limit, at, farthest), at)
    return np.where(is_open, sign * np.inf, at)


def _halved(
    tested: _Tested, scales: Sequence[float], limit: float, inside: Values, outside: Values
) -> Values:
    """The ends between an effect that is not told and one that is, by halving.

    For where z is no measure of how far an effect is: of an uncertain baseline z grows up to some
    effect of the other sign and falls beyond it, so that no z between those known reaches the end.
    """
    for _ in range(_MOST_HALVINGS):
        at = (inside + outside) / 2
        z = np.abs(at - tested.ratio) / np.sqrt(tested.variance(at))
        is_inside = _evidence(tested, at, z, scales)[0] < limit
        inside, outside = np.where(is_inside, at, inside), np.where(is_inside, outside, at)
    return (inside + outside) / 2


def _first(tested: _Tested, scales: Sequence[float], limit: float) -> Values:
    """About where the evidence of the better one of both scales reaches the limit, as z, [...]."""
    variance, wider = tested.variance(tested.ratio), (1 + np.square(tested.ratio)) / 2
    found = np.full(variance.shape, np.inf)
    for weight, one in zip(_WEIGHTS, scales, strict=True):
        x = one * one * wider / variance
        squared = (2 * (limit - math.log(weight)) + np.log1p(x)) * (1 + 1 / x)
        found = np.fmin(found, np.sqrt(squared))
    return found


def _evidence(
    tested: _Tested, at: Values, z: Values, scales: Sequence[float]
) -> tuple[Values, Values]:
    """Log of the mixture against `at`, which is z standard errors away, and its slope in z."""
    variance, squared = tested.variance(at), np.square(z)
    # Another effect is tested by another sum, whose spread grows as this does.
    wider = (1 + np.square(at)) / 2
    per_z = z * variance / (at - tested.ratio - squared * at * tested.base_part)
    grown = at * (1 / wider - 2 * tested.base_part / variance)
    terms, slopes = [], []
    for weight, one in zip(_WEIGHTS, scales, strict=True):
        x = one * one * wider / variance
        part = 1 / (1 + x)
        terms.append(math.log(weight) + np.log(part) / 2 + squared * (1 - part) / 2)
        slopes.append(z * (1 - part) + per_z * grown * x * part * (squared * part - 1) / 2)
    found = np.logaddexp(terms[0], terms[1])
    return found, np.exp(terms[0] - found) * slopes[0] + np.exp(terms[1] - found) * slopes[1]
