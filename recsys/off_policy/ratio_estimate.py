"""A sum of ratios over logged rounds: its value, its standard error and its interval.

Every estimator of this package is one, so all of them get their uncertainty in the same way.
Knows columns of numbers and who they belong to; not what they estimate.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
_CELLS_AT_ONCE = 4_000_000

Values: TypeAlias = NDArray[np.float64]
Clusters: TypeAlias = NDArray[np.generic]
"""[R] who a round belongs to: rounds of one user depend on each other."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are drawn; equal clusters and seeds draw the same resamples.

    So estimates on one log can be compared pair by pair.
    """

    seed: int = 0
    n_resamples: int = 1_000
    """0 draws none and gives no interval."""


BOOTSTRAP = Bootstrap()


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of a policy's value per round, with a 95 % interval."""

    name: str
    value: float
    error: float
    """Standard error."""
    low: float
    high: float
    n_rounds: int
    n_clusters: int
    note: str = ""
    """A choice it was made with, such as the bound of its weights."""

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object; a figure that is not finite is null."""
        return {
            name: value if not isinstance(value, float) or np.isfinite(value) else None
            for name, value in asdict(self).items()
        }


def estimate_ratios(
    name: str,
    numerators: ArrayLike,
    denominators: ArrayLike,
    clusters: Clusters,
    *,
    bootstrap: Bootstrap = BOOTSTRAP,
    note: str = "",
) -> Estimate:
    """The sum over columns of (sum of a numerator / sum of its denominator).

    The standard error is the delta method's over clusters. The interval is the percentile
    bootstrap's (Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 13), drawing
    whole clusters (Field & Welsh, "Bootstrapping clustered data", JRSS B 2007). Neither sees a
    reward that the log happens to lack, which is why thin support has to be refused beforehand.

    Args:
        numerators: one column per ratio, [R, C] or [R].
        denominators: likewise; a column of ones makes a mean over rounds.
        clusters: who each round belongs to, [R].
        bootstrap: how the interval is drawn.
    """
    tops, bottoms = _columns(numerators), _columns(denominators)
    tops, bottoms = np.broadcast_arrays(tops, bottoms)
    n_rounds, n_columns = tops.shape
    _, members = np.unique(clusters, return_inverse=True)
    n_clusters = int(members.max(initial=-1)) + 1
    sums = np.zeros((n_clusters, 2 * n_columns))
    np.add.at(sums, members, np.concatenate([tops, bottoms], axis=1))
    value, error = _delta_method(sums, n_columns)
    low, high = np.nan, np.nan
    if np.isfinite(value) and n_clusters > 1 and bootstrap.n_resamples:
        tail = 50.0 * (1.0 - CONFIDENCE)
        drawn = _resampled(sums, n_columns, bootstrap)
        low, high = np.percentile(drawn, [tail, 100.0 - tail])
    return Estimate(name, value, error, float(low), float(high), n_rounds, n_clusters, note)


def _columns(values: ArrayLike) -> Values:
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def _delta_method(sums: Values, n_columns: int) -> tuple[float, float]:
    """The value and its standard error, from the sums of clusters [G, 2C]."""
    totals = sums.sum(axis=0)
    tops, bottoms = totals[:n_columns], totals[n_columns:]
    if not len(sums) or not (bottoms > 0.0).all():
        return np.nan, np.nan
    ratios = tops / bottoms
    influence = ((sums[:, :n_columns] - ratios * sums[:, n_columns:]) / bottoms).sum(axis=1)
    n = len(sums)
    error = float(np.sqrt((influence**2).sum() * n / (n - 1))) if n > 1 else np.nan
    return float(ratios.sum()), error


def _resampled(sums: Values, n_columns: int, bootstrap: Bootstrap) -> Values:
    """The value in every resample; one whose denominator vanishes is left out."""
    found = [np.zeros(0)]
    for weights in _draws(len(sums), bootstrap):
        totals = weights @ sums
        tops, bottoms = totals[:, :n_columns], totals[:, n_columns:]
        usable = (bottoms > 0.0).all(axis=1)
        found.append((tops[usable] / bottoms[usable]).sum(axis=1))
    return np.concatenate(found)


def _draws(n_clusters: int, bootstrap: Bootstrap) -> Generator[Values]:
    """How often each cluster is drawn in each resample, in chunks that fit in memory."""
    n_resamples = bootstrap.n_resamples
    if n_resamples * n_clusters <= _CELLS_AT_ONCE:
        yield _few_draws(n_clusters, bootstrap)
        return
    rng = np.random.default_rng(bootstrap.seed)
    chunk = max(1, _CELLS_AT_ONCE // n_clusters)
    for start in range(0, n_resamples, chunk):
        yield _poisson(rng, min(chunk, n_resamples - start), n_clusters)


@lru_cache(maxsize=1)
def _few_draws(n_clusters: int, bootstrap: Bootstrap) -> Values:
    """All draws at once, kept for the next estimate on the same log."""
    rng = np.random.default_rng(bootstrap.seed)
    return _poisson(rng, bootstrap.n_resamples, n_clusters)


def _poisson(rng: np.random.Generator, n_draws: int, n_clusters: int) -> Values:
    # Poisson weights are the bootstrap without the fixed number of draws, and much cheaper
    # (Hanley & MacGibbon, "Creating non-parametric bootstrap samples", 2006).
    return rng.poisson(1.0, size=(n_draws, n_clusters)).astype(np.float64)
