"""Which of a user's newest items brought an item of the neighbours source; NumPy only."""

from __future__ import annotations

import numpy as np

from recsys.neighbour_candidates import SEED_DECAY, NeighbourTable
from recsys.types import NO_ROW, RowArray


def strongest_seeds(table: NeighbourTable, seeds: RowArray, rows: RowArray) -> RowArray:
    """Of each row [K] the seed that adds most to its worth as a neighbour, [K].

    Args:
        seeds: of one request, newest first, [S], -1 for padding.
        rows: candidates of the neighbours source.

    Returns:
        Rows of seeds, the newer one of equals; -1 where no seed has the row for a neighbour.
    """
    known = seeds[seeds >= 0]
    if not len(known) or not table.rows.size:
        return np.full(len(rows), NO_ROW, np.int32)
    decay = SEED_DECAY ** np.arange(len(known), dtype=np.float32)
    worth = table.scores[known].astype(np.float32) * decay[:, None]  # [S, M]
    is_it = (table.rows[known] == rows[:, None, None]) & np.isfinite(worth)  # [K, S, M]
    added = np.where(is_it, worth, -np.inf).max(axis=2)  # [K, S]
    found = np.where(np.isfinite(added.max(axis=1)), known[added.argmax(axis=1)], NO_ROW)
    return found.astype(np.int32)
