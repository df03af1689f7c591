"""Two rates of requests compared at any moment, right with no error at all: pure, exact.

Each rate has a confidence sequence by a mixture of betas (Robbins, "Statistical methods related to
the law of the iterated logarithm", 1970; Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", 2021): nothing in it is asymptotic.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values: TypeAlias = NDArray[np.float64]
MIXTURE = ((0.2, 0.5, 0.5), (0.4, 0.5, 100.0), (0.4, 100.0, 0.5))
"""Weight and parameters of each beta: any rate, rare events, rare non-events."""
_STEPS = 36
_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])


def log_mixture(hits: ArrayLike, n: ArrayLike) -> Values:
    """Log of the likelihood averaged over the mixture, [...]; hits may be fractions of requests."""
    hits, n = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    terms = [
        math.log(weight)
        + _log_gamma(a + hits)
        + _log_gamma(b + n - hits)
        - _log_gamma(a + b + n)
        - (math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
        for weight, a, b in MIXTURE
    ]
    return np.asarray(np.logaddexp.reduce(terms, axis=0))


def rate_interval(hits: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Values, Values]:
    """Low and high of a rate: all rates p with mixture / likelihood(p) < 1 / alpha.

    The ratio is a martingale at the true rate, so the interval misses it at any look with a chance
    of at most alpha (Ville). For values between 0 and 1 instead of hits it is a supermartingale
    and the same holds.
    """
    hits, n = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    least = log_mixture(hits, n) + math.log(alpha)
    with np.errstate(invalid="ignore", divide="ignore"):
        center = np.where(n > 0, hits / n, 0.5)

    def is_inside(rate: Values) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(hits > 0, hits * np.log(rate), 0.0)
            found = found + np.where(n > hits, (n - hits) * np.log1p(-rate), 0.0)
        return np.asarray(found >= least)

    def end(outside: Values) -> Values:
        inside = center
        is_whole = is_inside(outside)
        for _ in range(_STEPS):
            middle = (inside + outside) / 2
            inner = is_inside(middle)
            inside, outside = np.where(inner, middle, inside), np.where(inner, outside, middle)
        return np.where(is_whole, np.round(outside), outside)

    return end(np.zeros(hits.shape)), end(np.ones(hits.shape))


def rate_difference(
    hits_baseline: ArrayLike,
    n_baseline: ArrayLike,
    hits_canary: ArrayLike,
    n_canary: ArrayLike,
    alpha: float,
) -> tuple[Values, Values]:
    """Low and high of canary's rate less baseline's, at any look, whatever the rates."""
    low_baseline, high_baseline = rate_interval(hits_baseline, n_baseline, alpha / 2)
    low_canary, high_canary = rate_interval(hits_canary, n_canary, alpha / 2)
    return low_canary - high_baseline, high_canary - low_baseline
