"""The loops of `recsys.candidates`, compiled: one request's list at a time."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import BOOL, FLOAT, INT, NOTHING, compiled, given, several, written
from recsys.kernels.row_table import EMPTY, n_slots, slot_of
from recsys.types import FloatArray, RowArray

Number: TypeAlias = float | np.floating[Any]

_REMOVED = -2
"""Value of a row that the request must not name."""
_NO_COLUMN = -1


@compiled(BOOL, FLOAT, INT, FLOAT, INT)
def goes_first(score: Number, row: int, other_score: Number, other_row: int) -> bool:
    """The order of candidates: by falling score, then by rising row."""
    return bool(score > other_score or (score == other_score and row < other_row))


@compiled(
    INT,
    given(numba.int32, 1),
    given(numba.float32, 1),
    INT,
    written(numba.int32, 1),
    written(numba.float32, 1),
)
def _take_run(
    rows: RowArray, scores: FloatArray, n_before: int, taken: RowArray, values: FloatArray
) -> int:
    """Put one shard's answer behind the entries taken so far, in order; their number then.

    An answer stands in order, so insertion moves nothing but what a shard orders otherwise.
    """
    n_taken = n_before
    for column in range(len(rows)):
        if rows[column] < 0:
            continue
        score = np.float32(-np.inf) if math.isnan(scores[column]) else scores[column]
        place = n_taken
        while place > n_before and goes_first(
            score, rows[column], values[place - 1], taken[place - 1]
        ):
            taken[place], values[place] = taken[place - 1], values[place - 1]
            place -= 1
        taken[place], values[place] = rows[column], score
        n_taken += 1
    return n_taken


@compiled(
    NOTHING,
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.int64, 1),
    written(numba.int32, 2),
    written(numba.float32, 2),
)
def merge_runs(
    rows: RowArray,
    scores: FloatArray,
    ends: NDArray[np.int64],
    best_rows: RowArray,
    best_scores: FloatArray,
) -> None:
    """The best of several answers that stand one after the other; what is not filled stays.

    Args:
        rows: [B, M], -1 is padding.
        scores: [B, M]; NaN ranks with -inf.
        ends: the column behind each answer, [S].
        best_rows: filled, [B, k].
        best_scores: filled, [B, k].
    """
    n_runs = len(ends)
    taken, values = np.empty(rows.shape[1], np.int32), np.empty(rows.shape[1], np.float32)
    heads, tails = np.empty(n_runs, np.int64), np.empty(n_runs, np.int64)
    for request in range(len(rows)):
        begin, n_taken = 0, 0
        for run in range(n_runs):
            heads[run] = n_taken
            n_taken = _take_run(
                rows[request, begin : ends[run]],
                scores[request, begin : ends[run]],
                n_taken,
                taken,
                values,
            )
            begin, tails[run] = ends[run], n_taken
        for place in range(min(n_taken, best_rows.shape[1])):
            best = -1
            for run in range(n_runs):
                head = heads[run]
                if head < tails[run] and (
                    best < 0
                    or goes_first(
                        values[head], taken[head], values[heads[best]], taken[heads[best]]
                    )
                ):
                    best = run
            best_rows[request, place] = taken[heads[best]]
            best_scores[request, place] = values[heads[best]]
            heads[best] += 1


@compiled(BOOL, INT, given(numba.boolean, 1))
def is_blocked(row: int, blocked: NDArray[np.bool_]) -> bool:
    """Whether nobody may be shown a row; what the flags do not reach is not blocked."""
    return row < len(blocked) and blocked[row]


@compiled(
    several(INT, INT),
    given(numba.int32, 1),
    INT,
    given(numba.int32, 1),
    given(numba.boolean, 1),
    written(numba.int32, 1),
    written(numba.boolean, 1),
)
def _find_alive(
    rows: RowArray,
    n_index: int,
    excluded: RowArray,
    blocked: NDArray[np.bool_],
    twins: RowArray,
    alive: NDArray[np.bool_],
) -> tuple[int, int]:
    """Which columns may be named, each row once in the index's part and once in the extras'.

    `twins` joins an extra with the index's column of the same row, each way.

    Returns:
        How many were removed, and how many extras are alive.
    """
    slots = np.full(n_slots(len(rows) + len(excluded)), EMPTY, np.int32)
    columns = np.empty(len(slots), np.int32)
    for place in range(len(excluded)):
        slot = slot_of(slots, excluded[place])
        slots[slot], columns[slot] = excluded[place], _REMOVED
    n_removed, n_extras = 0, 0
    for column in range(len(rows)):
        row = rows[column]
        alive[column], twins[column] = False, _NO_COLUMN
        if row < 0:
            continue
        slot = slot_of(slots, row)
        is_new = slots[slot] == EMPTY
        if (not is_new and columns[slot] == _REMOVED) or is_blocked(row, blocked):
            n_removed += 1
            continue
        if is_new:
            slots[slot], columns[slot] = row, column
            alive[column] = True
        elif columns[slot] < n_index <= column and twins[columns[slot]] == _NO_COLUMN:
            twins[column], twins[columns[slot]] = columns[slot], column
            alive[column] = True
        n_extras += alive[column] and column >= n_index
    return n_removed, n_extras


@compiled(
    INT,
    given(numba.int32, 1),
    INT,
    given(numba.int32, 1),
    given(numba.boolean, 1),
    written(numba.int32, 1),
    written(numba.int32, 1),
)
def _choose_columns(
    rows: RowArray,
    n_index: int,
    excluded: RowArray,
    blocked: NDArray[np.bool_],
    chosen: RowArray,
    n_removed: RowArray,
) -> int:
    """The columns that make a list, in order: a prefix of the index's, then every other extra.

    Lengthening the prefix by one adds one candidate and spares at most one extra, so the total
    never falls, and the longest prefix that still fits leaves no place empty.
    """
    twins, alive = np.empty(len(rows), np.int32), np.empty(len(rows), np.bool_)
    n_removed[0], total = _find_alive(rows, n_index, excluded, blocked, twins, alive)
    n_chosen = 0
    for column in range(n_index):
        if alive[column]:
            total += twins[column] == _NO_COLUMN
            if total > len(chosen):
                break
            chosen[n_chosen] = column
            n_chosen += 1
            if twins[column] != _NO_COLUMN:
                alive[twins[column]] = False
    for column in range(n_index, len(rows)):
        if alive[column] and n_chosen < len(chosen):
            chosen[n_chosen] = column
            n_chosen += 1
    return n_chosen


@compiled(
    NOTHING,
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.int8, 1),
    given(numba.int64, 1),
    given(numba.int32, 1),
    given(numba.int64, 1),
    given(numba.boolean, 1),
    written(numba.int32, 2),
    written(numba.int8, 2),
    written(numba.int32, 2),
    written(numba.float32, 2),
    written(numba.int32, 1),
)
def fill_lists(
    found: RowArray,
    index_scores: FloatArray,
    names: NDArray[np.int8],
    widths: NDArray[np.int64],
    excluded: RowArray,
    offsets: NDArray[np.int64],
    blocked: NDArray[np.bool_],
    rows: RowArray,
    sources: NDArray[np.int8],
    ranks: RowArray,
    scores: FloatArray,
    n_removed: RowArray,
) -> None:
    """See `recsys.candidates.merge_sources`; what is not filled stays as it was.

    Args:
        found: rows by source, one beside the other, the index's first, [B, M], -1 is padding.
        index_scores: of the index's columns, [B, C0].
        names: of the sources, [S].
        widths: columns of each, [S].
        excluded: rows that a request must not name, request after request.
        offsets: where each request's begin, [B + 1].
        blocked: true for rows that no request may name, of any length.
        rows: filled, [B, C], like the next three.
        n_removed: filled, [B].
    """
    source_of, rank_of = np.empty(found.shape[1], np.int8), np.empty(found.shape[1], np.int32)
    begin = 0
    for source in range(len(names)):
        for rank in range(widths[source]):
            source_of[begin + rank], rank_of[begin + rank] = names[source], rank
        begin += widths[source]
    n_index = index_scores.shape[1]
    chosen = np.empty(rows.shape[1], np.int32)
    for request in range(len(found)):
        n_chosen = _choose_columns(
            found[request],
            n_index,
            excluded[offsets[request] : offsets[request + 1]],
            blocked,
            chosen,
            n_removed[request : request + 1],
        )
        for place in range(n_chosen):
            column = chosen[place]
            rows[request, place] = found[request, column]
            sources[request, place] = source_of[column]
            ranks[request, place] = rank_of[column]
            if column < n_index:
                scores[request, place] = index_scores[request, column]
