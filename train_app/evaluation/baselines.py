"""What any model must beat: popularity, all time and recent, and item-to-item neighbours.

Knows engagements as arrays; deterministic, no training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.types import FloatArray, RowArray
from train_app.examples.interactions import Interactions

RECENT_SHARE = 0.1
"""The recent window is this newest share of the engagements."""
MAX_NEIGHBOUR_CELLS = 100_000_000
"""Item-to-item neighbours are left out where users times items, or items squared, is more."""
_USERS_AT_ONCE = 2_000


def popularity(
    interactions: Interactions, negative_kinds: tuple[str, ...], since_ms: int | None = None
) -> FloatArray:
    """Engagements of each item, without those of negative kinds, [N].

    Args:
        since_ms: count only engagements from this moment on.
    """
    counted = np.asarray([kind not in negative_kinds for kind in interactions.kinds], np.bool_)
    keep = counted[interactions.kind_ids]
    if since_ms is not None:
        keep &= interactions.timestamps_ms >= since_ms
    counts = np.bincount(interactions.rows[keep], minlength=interactions.n_items)
    return counts.astype(np.float32)


def recent_since_ms(interactions: Interactions, share: float = RECENT_SHARE) -> int:
    """When the newest `share` of the engagements begins; 0 if there are none."""
    if not len(interactions):
        return 0
    return int(np.quantile(interactions.timestamps_ms, 1.0 - share, method="lower"))


def neighbours_fit(interactions: Interactions) -> bool:
    """Whether item-to-item neighbours of so many users and items can be held in memory."""
    n_items = interactions.n_items
    return n_items * max(n_items, interactions.n_users) <= MAX_NEIGHBOUR_CELLS


class ItemNeighbours:
    """Item-kNN: items alike by who engaged with them, cosine with shrinkage.

    Sarwar et al., Item-based collaborative filtering, WWW 2001; shrinkage as in
    Ferrari Dacrema et al., TOIS 2021.
    """

    def __init__(self, interactions: Interactions, n_neighbours: int = 100, shrink: float = 20.0):
        together = _co_counts(interactions)
        sizes = np.sqrt(np.diag(together))
        similarity = together / (np.outer(sizes, sizes) + shrink)
        np.fill_diagonal(similarity, 0.0)
        self._similarity = _keep_largest(similarity.astype(np.float32), n_neighbours)  # [N, N]

    def scores(self, seen: Sequence[RowArray]) -> FloatArray:
        """Per history, the summed similarity of every item to the items in it, [B, N]."""
        engaged = np.zeros((len(seen), len(self._similarity)), np.float32)
        for query, rows in enumerate(seen):
            engaged[query, rows] = 1.0
        return engaged @ self._similarity


def _co_counts(interactions: Interactions) -> NDArray[np.float32]:
    """How many users engaged with both items, [N, N]."""
    n_items = interactions.n_items
    together = np.zeros((n_items, n_items), np.float32)
    users = interactions.user_of_event()
    for first in range(0, interactions.n_users, _USERS_AT_ONCE):
        last = min(interactions.n_users, first + _USERS_AT_ONCE)
        events = slice(interactions.offsets[first], interactions.offsets[last])
        engaged = np.zeros((last - first, n_items), np.float32)
        engaged[users[events] - first, interactions.rows[events]] = 1.0
        together += engaged.T @ engaged
    return together


def _keep_largest(similarity: FloatArray, n_kept: int) -> FloatArray:
    if similarity.shape[1] > n_kept:
        bound = np.partition(similarity, -n_kept, axis=1)[:, -n_kept]
        similarity[similarity < bound[:, None]] = 0.0
    return similarity
