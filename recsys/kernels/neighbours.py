"""The loops of `recsys.neighbour_candidates`, compiled: one request at a time."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.candidate_lists import goes_first
from recsys.kernels.compiled import INT, NOTHING, compiled, given, written
from recsys.kernels.row_table import EMPTY, n_slots, slot_of
from recsys.types import FloatArray, RowArray


@compiled(
    NOTHING,
    given(numba.int32, 2),
    given(numba.uint8, 2),
    given(numba.boolean, 1),
    written(numba.int32, 2),
)
def fill_seeds(
    items: RowArray, kinds: NDArray[np.uint8], is_seed_kind: NDArray[np.bool_], seeds: RowArray
) -> None:
    """See `recsys.neighbour_candidates.newest_seeds`; what is not filled stays as it was."""
    n_seeds = seeds.shape[1]
    for request in range(len(items)):
        slots = np.full(n_slots(n_seeds), EMPTY, np.int32)
        n_found = 0
        for column in range(items.shape[1] - 1, -1, -1):
            row = items[request, column]
            if n_found == n_seeds:
                break
            if row < 0 or not is_seed_kind[kinds[request, column]]:
                continue
            slot = slot_of(slots, row)
            if slots[slot] == EMPTY:
                slots[slot] = seeds[request, n_found] = row
                n_found += 1


@compiled(
    INT,
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.float32, 1),
    given(numba.int32, 1),
    written(numba.int32, 1),
    written(numba.float32, 1),
)
def _add_up(
    rows: RowArray,
    scores: FloatArray,
    weights: FloatArray,
    history: RowArray,
    names: RowArray,
    worth: FloatArray,
) -> int:
    """What the neighbours that the history does not name are worth together; how many there are."""
    slots = np.full(n_slots(len(history) + rows.size), EMPTY, np.int32)
    place_of = np.full(len(slots), -1, np.int32)
    for place in range(len(history)):
        if history[place] >= 0:
            slots[slot_of(slots, history[place])] = history[place]
    n_found = 0
    for seed in range(len(rows)):
        for entry in range(rows.shape[1]):
            row, score = rows[seed, entry], scores[seed, entry]
            if row < 0 or score == -np.inf:
                continue
            slot = slot_of(slots, row)
            if slots[slot] == EMPTY:
                slots[slot], place_of[slot] = row, n_found
                names[n_found], worth[n_found] = row, 0.0
                n_found += 1
            if place_of[slot] >= 0:
                worth[place_of[slot]] += weights[seed] * score
    return n_found


@compiled(
    NOTHING,
    given(numba.int32, 3),
    given(numba.float32, 3),
    given(numba.float32, 1),
    given(numba.int32, 2),
    written(numba.int32, 2),
)
def fill_neighbours(
    rows: RowArray, scores: FloatArray, weights: FloatArray, history: RowArray, found: RowArray
) -> None:
    """The best neighbours of each request; what is not filled stays as it was.

    Args:
        rows: of each seed's neighbours, [B, S, M]; -1 is padding, of a seed that is none too.
        scores: [B, S, M]; -inf is padding.
        weights: of a seed by its place, [S].
        history: [B, L], what must not be found.
        found: filled, [B, C], by falling worth, then by rising row.
    """
    n_most = rows.shape[1] * rows.shape[2]
    names, worth = np.empty(n_most, np.int32), np.empty(n_most, np.float32)
    best = np.empty(found.shape[1], np.float32)
    for request in range(len(rows)):
        n_named = _add_up(rows[request], scores[request], weights, history[request], names, worth)
        n_kept = 0
        for one in range(n_named):
            place = n_kept
            while place > 0 and goes_first(
                worth[one], names[one], best[place - 1], found[request, place - 1]
            ):
                place -= 1
            if place == len(best):
                continue
            n_kept = min(n_kept + 1, len(best))
            for other in range(n_kept - 1, place, -1):
                best[other], found[request, other] = best[other - 1], found[request, other - 1]
            best[place], found[request, place] = worth[one], names[one]
