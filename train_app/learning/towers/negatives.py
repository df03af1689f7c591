"""Shared negatives of a training step and their log-Q correction.

Knows how often items were engaged with; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_UNIFORM_SHARE = 0.5
"""Of the draws; the rest follow popularity, where the softmax mass of hard negatives lies."""
_FULL_SOFTMAX_BELOW = 2.0
"""A catalogue of fewer items than this many times the negatives takes the full softmax: a quarter
more work, and what it learns per epoch no sample reaches."""


@dataclass(frozen=True, slots=True)
class Negatives:
    """Item rows and what to add to their logits for an unbiased partition; -inf is padding."""

    rows: NDArray[np.int64]  # [n], always the same number
    corrections: NDArray[np.float32]  # [n] log(times drawn) - log(expected times drawn)


class NegativeSampler:
    """Draws negatives from a mixture of uniform and popularity over items seen in training.

    The sum over drawn items of exp(logit + correction) is an unbiased estimate of the sum of
    exp(logit) over all of them (Bengio & Senecal 2008, importance sampling of a softmax).

    Args:
        counts: [N] how often each item is a target; items never seen are never negatives, so that
            a new item is judged by its content alone.
        n_negatives: draws per step; 0 takes every seen item each time, the full softmax.
    """

    def __init__(self, counts: NDArray[np.int64], n_negatives: int) -> None:
        self._seen = np.flatnonzero(counts > 0)
        weights = counts[self._seen].astype(np.float64)
        n_seen = max(len(self._seen), 1)
        shares = _UNIFORM_SHARE / n_seen + (1 - _UNIFORM_SHARE) * weights / max(weights.sum(), 1.0)
        self._cumulative = np.cumsum(shares)
        self._log_shares = np.log(shares)
        self._n = n_negatives
        self.is_full = n_negatives == 0 or len(self._seen) <= n_negatives * _FULL_SOFTMAX_BELOW

    def draw(self, rng: np.random.Generator) -> Negatives:
        """The negatives of one step."""
        if self.is_full:
            return Negatives(self._seen, np.zeros(len(self._seen), np.float32))
        points = rng.random(self._n) * self._cumulative[-1]
        drawn, times = np.unique(
            np.searchsorted(self._cumulative, points, side="right"), return_counts=True
        )
        drawn = np.minimum(drawn, len(self._seen) - 1)
        rows = np.full(self._n, self._seen[0])
        rows[: len(drawn)] = self._seen[drawn]
        corrections = np.full(self._n, -np.inf, dtype=np.float32)
        corrections[: len(drawn)] = np.log(times) - np.log(self._n) - self._log_shares[drawn]
        return Negatives(rows, corrections)
