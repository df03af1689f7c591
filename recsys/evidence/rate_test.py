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
_FINEST = 1e-7
"""A step of Newton's that is so small leaves its square."""
_MOST_STEPS = 40
_PARTS = tuple(
    (math.log(weight) - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b), a, b)
    for weight, a, b in MIXTURE
)
_CONSTANTS, _A, _B = (np.array(column)[:, None] for column in zip(*_PARTS, strict=True))


def log_mixture(hits: ArrayLike, n: ArrayLike) -> Values:
    """Log of the likelihood averaged over the mixture, [...]; hits may be fractions of requests."""
    hits, n = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(n, np.float64))
    shape = hits.shape
    hits, n = hits.reshape(-1), n.reshape(-1)
    counts = np.stack([_A + hits, _B + (n - hits), _A + _B + n])  # [3, mixture, ...]
    found = np.fromiter(map(math.lgamma, counts.reshape(-1).tolist()), np.float64, counts.size)
    up, down, total = found.reshape(counts.shape)
    terms = _CONSTANTS + up + down - total
    return np.asarray(np.logaddexp.reduce(terms, axis=0).reshape(shape))


def rate_interval(hits: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Values, Values]:
    """Low and high of a rate: all rates p with mixture / likelihood(p) < 1 / alpha.

    The ratio is a martingale at the true rate, so the interval misses it at any look with a chance
    of at most alpha (Ville). For values between 0 and 1 instead of hits it is a supermartingale
    and the same holds.
    """
    hits, n = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(n, np.float64))
    least = log_mixture(hits, n) + math.log(alpha)
    # The low end is that of misses, upside down.
    both = np.stack([n - hits, hits])
    with np.errstate(all="ignore"):
        highs = _high(both, n, least)
    return np.asarray(1 - highs[0]), np.asarray(highs[1])


def _high(hits: Values, n: Values, least: Values) -> Values:
    """The greatest rate whose log likelihood is at least `least`, [...].

    Newton's method on the log odds, where the log likelihood is concave: from a rate that is too
    high it comes down to the root and never passes it. The first rate is the lowest of three
    that cannot be too low: KL(c, p) is at least 2 (p - c)^2, (p - c)^2 / (2 p) and, for p above
    c, (p - c)^2 / (2 (1 - c)).
    """
    is_open = (hits >= n) | (n <= 0)
    n = np.where(is_open, 1.0, n)
    hits = np.where(is_open, 0.0, hits)
    share = hits / n
    most = np.where(hits > 0, hits * np.log(share), 0.0) + (n - hits) * np.log1p(-share)
    apart = np.maximum((most - least) / n, 0.0)
    first = np.minimum(
        share + np.sqrt(apart * np.minimum(0.5, 2 * (1 - share))),
        share + apart + np.sqrt(apart * (apart + 2 * share)),
    )
    # With the hits left out, no likelihood is lower: a bound below 1 however few misses there are.
    first = np.minimum(first, -np.expm1(least / (n - hits)))
    odds = np.log(first / (1 - first))
    for _ in range(_MOST_STEPS):
        rate = 1 / (1 + np.exp(-odds))
        value = hits * odds - n * np.logaddexp(0.0, odds) - least
        step = value / (hits - n * rate)
        moved = np.where(np.isfinite(step), step, 0.0)
        odds = odds - moved
        if not (np.abs(moved) > _FINEST * np.maximum(np.abs(odds), 1.0)).any():
            break
    return np.asarray(np.where(is_open, 1.0, 1 / (1 + np.exp(-odds))))


def rate_difference(
    hits_baseline: ArrayLike,
    n_baseline: ArrayLike,
    hits_canary: ArrayLike,
    n_canary: ArrayLike,
    alpha: float,
) -> tuple[Values, Values]:
    """Low and high of canary's rate less baseline's, at any look, whatever the rates."""
    arms = (
        np.broadcast_arrays(hits_baseline, hits_canary),
        np.broadcast_arrays(n_baseline, n_canary),
    )
    low, high = rate_interval(np.stack(arms[0]), np.stack(arms[1]), alpha / 2)
    return low[1] - high[0], high[1] - low[0]
