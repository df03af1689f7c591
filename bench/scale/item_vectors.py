"""Item vectors and queries that are shaped as towers make them: clusters, and few strong axes.

Uniform vectors would be the easiest to lose and the hardest to search: trained ones lie in
clusters, and most of their variance is along few directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.types import FloatArray

_DECAY = 0.5
"""The standard deviation of axis j is j ** -_DECAY."""
_SPREAD = 0.6
"""Of items around their cluster's centre, as a share of the centres' own spread."""
_USER_SPREAD = 0.9
"""Likewise of users, who like more than one cluster."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where items and users lie."""

    centres: FloatArray  # [n_clusters, D]
    axes: FloatArray  # [D], standard deviations

    def items(self, n_items: int, rng: np.random.Generator) -> FloatArray:
        """Vectors of so many items, [n_items, D]."""
        return self._around(n_items, _SPREAD, rng)

    def users(self, n_users: int, rng: np.random.Generator) -> FloatArray:
        """Queries of so many users, of length 1, [n_users, D]."""
        drawn = self._around(n_users, _USER_SPREAD, rng)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    def _around(self, n: int, spread: float, rng: np.random.Generator) -> FloatArray:
        drawn = rng.standard_normal((n, len(self.axes)), dtype=np.float32)
        drawn *= np.float32(spread) * self.axes
        drawn += self.centres[rng.integers(len(self.centres), size=n)]
        return drawn


def space_of(n_items: int, dim: int, seed: int) -> Space:
    """A space for so many items: a cluster for every thousand of them, at least 64."""
    rng = np.random.default_rng((seed, 0))
    axes = (np.arange(1, dim + 1) ** -_DECAY).astype(np.float32)
    n_clusters = max(64, n_items // 1_000)
    centres = rng.standard_normal((n_clusters, dim), dtype=np.float32) * axes
    return Space(centres, axes)
