"""Offline metrics of ranked lists, with bootstrap intervals over users.

Knows gains at ranks and nothing of the models that ranked. Legend: Q queries, K list length.
Every metric but coverage is one number per query, [Q]; its mean is the metric of a method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.types import FloatArray, RowArray

Values = NDArray[np.float64]
N_RESAMPLES = 1_000
_CELLS_AT_ONCE = 4_000_000
_CELLS_KEPT = 10_000_000


def hit_rate(gains: FloatArray, k: int) -> Values:
    """HR@k: 1 where a relevant item is among the first `k`.

    Args:
        gains: [Q, K] relevance grade of the item at each rank, best rank first; 0 not relevant.
    """
    return np.asarray((gains[:, :k] > 0).any(axis=1), np.float64)


def precision(gains: FloatArray, k: int) -> Values:
    """Precision@k: the relevant share of `k` places, also where the list is shorter."""
    return np.asarray((gains[:, :k] > 0).sum(axis=1) / k, np.float64)


def recall(gains: FloatArray, n_relevant: ArrayLike, k: int) -> Values:
    """Recall@k: the share of a query's relevant items among the first `k`; 0 if it has none."""
    return _per_relevant((gains[:, :k] > 0).sum(axis=1), n_relevant)


def average_precision(gains: FloatArray, n_relevant: ArrayLike, k: int) -> Values:
    """AP@k: precision at each relevant rank up to `k`, summed, over all relevant items."""
    relevant = gains[:, :k] > 0
    ranks = np.arange(1, relevant.shape[1] + 1)
    at_rank = np.cumsum(relevant, axis=1) / ranks
    return _per_relevant((at_rank * relevant).sum(axis=1), n_relevant)


def reciprocal_rank(gains: FloatArray) -> Values:
    """1 / rank of the first relevant item, 0 where the list has none; its mean is MRR."""
    relevant = gains > 0
    first = relevant.argmax(axis=1) if relevant.shape[1] else np.zeros(len(gains), np.int64)
    return np.where(relevant.any(axis=1), 1.0 / (first + 1), 0.0)


def ndcg(
    gains: FloatArray,
    ideal: FloatArray,
    k: int,
    gain: Literal["linear", "exponential"] = "linear",
) -> Values:
    """NDCG@k with discount 1 / log2(rank + 1), ranks from 1.

    Args:
        ideal: [Q, R] grades of all relevant items of each query, in any order, 0 padded.
        gain: `linear` counts a grade as it is (trec_eval); `exponential` as 2^grade - 1
            (Burges et al., ICML 2005). For grades of 0 and 1 both are the same.
    """
    found = _discounted(_gain(gains, gain), k)
    best = _discounted(-np.sort(-_gain(ideal, gain), axis=1), k)
    return np.divide(found, best, out=np.zeros(len(found)), where=best > 0)


def coverage(rows: RowArray, n_items: int) -> float:
    """The share of all items that appear in any list; rows of -1 are padding."""
    return len(np.unique(rows[rows >= 0])) / n_items if n_items else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """As a JSON object."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap_mean(
    values: Values,
    users: NDArray[np.int64],
    seed: int,
    n_resamples: int = N_RESAMPLES,
    weights: Values | None = None,
) -> Interval:
    """The mean over queries with a percentile interval; whole users are resampled.

    Queries of one user depend on each other, so resampling queries would be too sure. The same
    `users` and `seed` draw the same resamples, so the difference of two methods' values is paired.

    Args:
        values: [Q]; at least one.
        users: [Q] the user of each query.
        weights: [Q] positive; the weighted mean, normalised in every resample by its own weights.
    """
    _, user = np.unique(users, return_inverse=True)
    counts = np.bincount(user, weights=weights).astype(np.float64)
    sums = np.bincount(user, weights=values if weights is None else values * weights)
    means = []
    for times in _resamples(len(counts), seed, n_resamples):
        drawn = times @ counts  # a resample that draws nobody is empty and left out
        means.append((times @ sums)[drawn > 0] / drawn[drawn > 0])
    low, high = np.percentile(np.concatenate([np.zeros(0), *means]), [2.5, 97.5])
    return Interval(float(np.average(values, weights=weights)), float(low), float(high))


def bootstrap_coverage(
    rows: RowArray, n_items: int, users: NDArray[np.int64], seed: int, n_resamples: int = 200
) -> Interval:
    """Coverage with a normal interval from the bootstrap's standard error over users.

    A resample can only lose items, so its percentiles would lie below the estimate; its spread
    is still that of the estimate.
    """

    def share_shown(exposures: Values) -> float:
        return float((exposures > 0).mean()) if n_items else 0.0

    return _bootstrap_exposures(share_shown, rows, n_items, users, seed, n_resamples)


def bootstrap_gini(
    rows: RowArray, n_items: int, users: NDArray[np.int64], seed: int, n_resamples: int = 200
) -> Interval:
    """Gini of how often each item is in a list, with an interval as that of coverage."""
    return _bootstrap_exposures(gini, rows, n_items, users, seed, n_resamples)


def gini(exposures: Values) -> float:
    """How unequal the exposures of all items are: 0 all alike, near 1 one item has all.

    Args:
        exposures: [N] how often each item was in a list; items that never were count as 0.
    """
    ordered = np.sort(np.asarray(exposures, np.float64))
    total = ordered.sum()
    if total <= 0:
        return 0.0
    places = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return float(places @ ordered / (len(ordered) * total))


def _bootstrap_exposures(
    statistic: Callable[[Values], float],
    rows: RowArray,
    n_items: int,
    users: NDArray[np.int64],
    seed: int,
    n_resamples: int,
) -> Interval:
    """A statistic of exposures with a normal interval from its spread over resampled users."""
    _, user = np.unique(users, return_inverse=True)
    cells = rows.astype(np.int64) % (n_items + 1)  # padding, -1, goes to the last cell

    def of(times: NDArray[np.integer]) -> float:
        weights = np.repeat(times[user].astype(np.float64), rows.shape[1])
        counted = np.bincount(cells.ravel(), weights, n_items + 1)
        return statistic(np.asarray(counted[:n_items], np.float64))

    n_users = int(user.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    resampled = [of(rng.poisson(1.0, size=n_users)) for _ in range(n_resamples if n_users else 0)]
    estimate = of(np.ones(n_users, np.int64))
    spread = 1.96 * float(np.std(resampled)) if resampled else 0.0
    return Interval(estimate, max(0.0, estimate - spread), min(1.0, estimate + spread))


def _per_relevant(counts: NDArray[np.generic], n_relevant: ArrayLike) -> Values:
    relevant = np.broadcast_to(np.asarray(n_relevant, np.float64), counts.shape)
    out = np.zeros(counts.shape, np.float64)
    np.divide(counts, relevant, out=out, where=relevant > 0)
    return out


def _gain(grades: FloatArray, gain: Literal["linear", "exponential"]) -> Values:
    wide = np.asarray(grades, np.float64)
    return wide if gain == "linear" else np.exp2(wide) - 1.0


def _discounted(gains: Values, k: int) -> Values:
    cut = gains[:, :k]
    return np.asarray(cut @ (1.0 / np.log2(np.arange(2, cut.shape[1] + 2))), np.float64)


def _resamples(n_users: int, seed: int, n_resamples: int) -> Iterator[Values]:
    """How often each user is drawn, [n, n_users] of some resamples at a time.

    A Poisson(1) weight per user is the bootstrap without the fixed number of draws (Hanley and
    MacGibbon 2006).
    """
    if n_users * n_resamples <= _CELLS_KEPT:
        yield _kept_resamples(n_users, seed, n_resamples)
        return
    rng = np.random.default_rng(seed)
    for n_draws in _chunks(n_resamples, n_users):
        yield rng.poisson(1.0, size=(n_draws, n_users)).astype(np.float64)


@lru_cache(maxsize=1)  # every figure of a table asks for the same draws
def _kept_resamples(n_users: int, seed: int, n_resamples: int) -> Values:
    drawn = np.random.default_rng(seed).poisson(1.0, size=(n_resamples, n_users))
    times = drawn.astype(np.float64)  # as the sums are: products of integers have no BLAS
    times.setflags(write=False)
    return times


def _chunks(total: int, width: int) -> list[int]:
    size = max(1, min(total, _CELLS_AT_ONCE // max(1, width)))
    return [min(size, total - start) for start in range(0, total, size)]
