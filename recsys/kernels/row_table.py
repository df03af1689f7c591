"""A table from item rows to numbers, for compiled loops: a request touches hundreds of millions.

Open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4, algorithm L).
Its size follows what a request names, not the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import INT, compiled, given
from recsys.types import RowArray

EMPTY = -1
"""What a free slot holds; rows begin at 0."""
_MULTIPLIER = np.uint64(0x9E37_79B9_7F4A_7C15)
_HALF = np.uint64(32)


@compiled(INT, INT)
def n_slots(n_rows: int) -> int:
    """Slots of a table that at most so many rows are put into, a power of two."""
    size = 8
    while size < 2 * n_rows:
        size *= 2
    return size


@compiled(INT, given(numba.int32, 1), INT)
def slot_of(slots: RowArray, row: int) -> int:
    """Where a row stands, or the free slot that it would be put into."""
    mask = np.uint64(len(slots) - 1)
    slot = ((np.uint64(row) * _MULTIPLIER) >> _HALF) & mask
    while slots[slot] != EMPTY and slots[slot] != row:
        slot = (slot + np.uint64(1)) & mask
    return int(slot)


def flat_lists(lists: Sequence[RowArray]) -> tuple[RowArray, NDArray[np.int64]]:
    """Lists of rows one after the other, and where each begins and the last ends, [B + 1]."""
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=offsets[1:])
    flat = np.concatenate(lists) if lists else np.empty(0)
    return np.ascontiguousarray(flat, np.int32), offsets
