"""Bounds of a latency's quantile from a histogram that hold at any look: pure, exact.

The idea of Howard & Ramdas, "Sequential estimation of quantiles with applications to A/B testing
and best-arm identification", Bernoulli 2022, for one quantile: that a share F(x) of the latencies
is below an edge x is tested by a mixture of likelihood ratios, a martingale from the first request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.stores.evidence.evidence_sums import BUCKET_BASE

Values: TypeAlias = NDArray[np.float64]
ODDS_FACTORS = (1.15, 1.35, 1.7, 2.5, 5.0, 12.0, 40.0, 100.0)
"""How much higher the odds of being below an edge may be than tested, each as likely."""


def quantile_interval(
    below: Values, edges_ms: Values, share: float, alpha: float
) -> tuple[Values, Values]:
    """Low and high of the quantile in ms, [...]; 0 and infinite where nothing bounds it.

    The low end is the greatest edge where F >= share is rejected, the high end the least where
    F <= share is, each at alpha / 2. Both tests are monotone in the edge, so asking at every edge
    costs nothing.

    Args:
        below: latencies below each edge, [..., E]; the last edge has all below it.
        edges_ms: rising, [E].
    """
    n = below[..., -1:]
    limit = math.log(2 / alpha)
    is_above = log_likelihood_ratio(below, n, share) >= limit
    is_below = log_likelihood_ratio(n - below, n, 1 - share) >= limit
    high = np.where(is_above, edges_ms, np.inf).min(-1)
    low = np.where(is_below, edges_ms, 0.0).max(-1)
    return low, high


def log_likelihood_ratio(hits: Values, n: Values, share: float) -> Values:
    """Log of the mixture over higher rates of likelihood(rate) / likelihood(share).

    A supermartingale while the rate is at most `share`: it passes log(1 / alpha) at any look with
    a chance of at most alpha.
    """
    odds = share / (1 - share) * np.array(ODDS_FACTORS)
    rates = odds / (1 + odds)
    of_hit, of_miss = np.log(rates / share), np.log((1 - rates) / (1 - share))
    terms = hits[..., None] * of_hit + (n - hits)[..., None] * of_miss
    most = terms.max(-1)
    return np.asarray(most + np.log(np.exp(terms - most[..., None]).mean(-1)))


def quantile_ratio(
    baseline: tuple[Values, Values], canary: tuple[Values, Values]
) -> tuple[Values, Values]:
    """Low and high of (canary - baseline) / baseline of two bounded quantiles, [...]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(np.isinf(baseline[1]), 0.0, canary[0] / baseline[1])
        high = np.where(baseline[0] <= 0, np.inf, canary[1] / baseline[0])
    return low - 1, high - 1


def below_edges(
    baseline: Mapping[int, float], canary: Mapping[int, float]
) -> tuple[Values, Values, Values]:
    """Latencies below each bucket's upper edge for both histograms, [E], and the edges in ms."""
    used = [bucket for counts in (baseline, canary) for bucket, n in counts.items() if n > 0]
    if not used:
        return np.zeros(1), np.zeros(1), np.ones(1)
    buckets = np.arange(min(used) - 1, max(used) + 1)
    edges_ms = np.asarray(BUCKET_BASE ** (buckets + 1.0), np.float64)
    first, second = (
        np.cumsum(np.array([counts.get(int(bucket), 0) for bucket in buckets], np.float64))
        for counts in (baseline, canary)
    )
    return first, second, edges_ms
