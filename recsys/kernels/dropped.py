"""The loops of `recsys.dropped_candidates`, compiled: one request at a time."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.candidate_lists import is_blocked
from recsys.kernels.compiled import BOOL, INT, NOTHING, WORD, compiled, given, written
from recsys.kernels.row_table import EMPTY, n_slots, slot_of
from recsys.kernels.seeded_draws import uniform_draw
from recsys.types import FloatArray, RowArray

_INDEX = 0
"""`Source.INDEX`."""
_SALT = np.uint64(0xD1B5_4A32_D192_ED03)
"""Apart from the draws of the slate, which come from the same seed."""


@compiled(NOTHING, given(numba.int32, 1), written(numba.int32, 1))
def _put(rows: RowArray, slots: RowArray) -> None:
    for place in range(len(rows)):
        slots[slot_of(slots, rows[place])] = rows[place]


@compiled(
    INT,
    given(numba.int32, 1),
    INT,
    given(numba.int32, 1),
    given(numba.int32, 1),
    given(numba.boolean, 1),
    written(numba.int64, 1),
)
def _find_dropped(
    index_rows: RowArray,
    first: int,
    beside: RowArray,
    excluded: RowArray,
    blocked: NDArray[np.bool_],
    dropped: NDArray[np.int64],
) -> int:
    """The index's columns from `first` on that nobody names, excludes or blocks; how many."""
    slots = np.full(n_slots(len(beside) + len(excluded)), EMPTY, np.int32)
    _put(beside, slots)
    _put(excluded, slots)
    n_dropped = 0
    for column in range(first, len(index_rows)):
        row = index_rows[column]
        if row >= 0 and slots[slot_of(slots, row)] == EMPTY and not is_blocked(row, blocked):
            dropped[n_dropped] = column
            n_dropped += 1
    return n_dropped


@compiled(BOOL, given(numba.int64, 1), INT, INT)
def _holds(places: NDArray[np.int64], n: int, wanted: int) -> bool:
    is_there = False
    for at in range(n):
        is_there |= places[at] == wanted
    return is_there


@compiled(INT, INT, INT, WORD, written(numba.int64, 1))
def _fill_subset(size: int, n: int, seed: np.uint64, places: NDArray[np.int64]) -> int:
    """A random subset of 0..size-1, rising, by Floyd's algorithm; how many, all if below `n`."""
    n_drawn = 0
    for step in range(n):
        last = size - (n - step)
        if last < 0:
            continue
        drawn = int(uniform_draw(seed ^ _SALT, step) * (last + 1))
        places[n_drawn] = last if _holds(places, n_drawn, drawn) else drawn
        n_drawn += 1
    places[:n_drawn].sort()
    return n_drawn


@compiled(
    NOTHING,
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.int32, 2),
    given(numba.int8, 2),
    given(numba.int32, 2),
    given(numba.int32, 1),
    given(numba.int64, 1),
    given(numba.boolean, 1),
    given(numba.uint64, 1),
    written(numba.int32, 2),
    written(numba.int32, 2),
    written(numba.float32, 2),
    written(numba.int32, 1),
)
def fill_draws(
    index_rows: RowArray,
    index_scores: FloatArray,
    listed: RowArray,
    sources: NDArray[np.int8],
    ranks: RowArray,
    excluded: RowArray,
    offsets: NDArray[np.int64],
    blocked: NDArray[np.bool_],
    seeds: NDArray[np.uint64],
    rows: RowArray,
    drawn_ranks: RowArray,
    scores: FloatArray,
    n_dropped: RowArray,
) -> None:
    """See `recsys.dropped_candidates.draw_dropped`; what is not filled stays as it was.

    Args:
        listed: rows of the candidates, [B, C], like sources and ranks.
        excluded: rows that a request must not name, request after request.
        offsets: where each request's begin, [B + 1].
        rows: filled, [B, D], like the next two.
        n_dropped: filled, [B].
    """
    dropped = np.empty(index_rows.shape[1], np.int64)
    places = np.empty(rows.shape[1], np.int64)
    for request in range(len(index_rows)):
        n_kept = 0
        while n_kept < listed.shape[1] and sources[request, n_kept] == _INDEX:
            n_kept += 1
        first = ranks[request, n_kept - 1] + 1 if n_kept else 0
        n_dropped[request] = _find_dropped(
            index_rows[request],
            first,
            listed[request, n_kept:],
            excluded[offsets[request] : offsets[request + 1]],
            blocked,
            dropped,
        )
        n_drawn = _fill_subset(n_dropped[request], len(places), seeds[request], places)
        for at in range(n_drawn):
            column = dropped[places[at]]
            rows[request, at] = index_rows[request, column]
            drawn_ranks[request, at] = column
            scores[request, at] = index_scores[request, column]
