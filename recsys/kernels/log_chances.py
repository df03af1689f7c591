"""The loop of `recsys.item_successors`, compiled: one request at a time."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import FLOAT, INT, NOTHING, compiled, given, written
from recsys.kernels.row_table import EMPTY, n_slots, slot_of
from recsys.types import FloatArray, RowArray


@compiled(INT, given(numba.int32, 1), written(numba.int32, 1), INT)
def _find_newest(history: RowArray, newest: RowArray, n_looked_at: int) -> int:
    """The newest different items of a history, newest first; how many there are."""
    n_found = 0
    for column in range(len(history) - 1, max(-1, len(history) - 1 - n_looked_at), -1):
        row = history[column]
        is_known = row < 0 or n_found == len(newest)
        for place in range(n_found):
            is_known |= newest[place] == row
        if not is_known:
            newest[n_found] = row
            n_found += 1
    return n_found


@compiled(
    NOTHING,
    given(numba.int64, 1),
    given(numba.int32, 1),
    given(numba.float32, 1),
    given(numba.float32, 1),
    given(numba.int32, 2),
    given(numba.int32, 2),
    INT,
    INT,
    FLOAT,
    FLOAT,
    written(numba.float32, 2),
)
def fill_log_chances(
    offsets: NDArray[np.int64],
    rows: RowArray,
    shares: FloatArray,
    prior: FloatArray,
    items: RowArray,
    candidates: RowArray,
    reach: int,
    n_looked_at: int,
    normaliser: float,
    prior_weight: float,
    chances: FloatArray,
) -> None:
    """See `recsys.item_successors.ItemSuccessors.log_chances`; padding reads item 0's prior.

    Args:
        offsets: of the table, like rows, shares and prior.
        items: [B, L] histories.
        candidates: [B, C].
        reach: so many of the newest different items count.
        n_looked_at: newest events among which those are found.
        normaliser: of the sum over them.
        prior_weight: of an item's general share.
        chances: filled, [B, C].
    """
    newest = np.empty(reach, np.int32)
    for request in range(len(items)):
        listed = candidates[request]
        slots = np.full(n_slots(len(listed)), EMPTY, np.int32)
        sums = np.zeros(len(slots))
        for column in range(len(listed)):
            if listed[column] >= 0:
                slots[slot_of(slots, listed[column])] = listed[column]
        for place in range(_find_newest(items[request], newest, n_looked_at)):
            weight = 1.0 / (place + 1)
            for entry in range(offsets[newest[place]], offsets[newest[place] + 1]):
                slot = slot_of(slots, rows[entry])
                if slots[slot] != EMPTY:
                    sums[slot] += weight * shares[entry]
        for column in range(len(listed)):
            row = listed[column]
            followed = sums[slot_of(slots, row)] if row >= 0 else 0.0
            share = prior_weight * np.float64(prior[max(row, 0)])
            chances[request, column] = math.log(followed / normaliser + share)
