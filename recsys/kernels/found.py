"""The answer of an index in its final order, compiled."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.candidate_lists import goes_first
from recsys.kernels.compiled import NOTHING, compiled, given, written
from recsys.types import FloatArray, RowArray


@compiled(
    NOTHING,
    given(numba.uint32, 2),
    given(numba.float32, 2),
    given(numba.int32, 1),
    written(numba.int32, 2),
    written(numba.float32, 2),
)
def fill_found(
    found: NDArray[np.uint32],
    scores: FloatArray,
    rows: RowArray,
    best_rows: RowArray,
    best_scores: FloatArray,
) -> None:
    """Fill the rows found, best first, equal scores by row; what is not filled stays.

    Args:
        found: places in the index, [B, K], in an order that is right but for equal scores.
        scores: [B, K]; NaN is nothing found.
        rows: of the places, [N].
        best_rows: filled, [B, at least K].
        best_scores: filled, of that shape.
    """
    for query in range(len(found)):
        n_taken = 0
        for column in range(found.shape[1]):
            # -0.0 becomes 0.0, so that what is equal looks equal.
            score = scores[query, column] + np.float32(0.0)
            if math.isnan(score):
                continue
            row, place = rows[found[query, column]], n_taken
            while place > 0 and goes_first(
                score, row, best_scores[query, place - 1], best_rows[query, place - 1]
            ):
                best_rows[query, place] = best_rows[query, place - 1]
                best_scores[query, place] = best_scores[query, place - 1]
                place -= 1
            best_rows[query, place], best_scores[query, place] = row, score
            n_taken += 1
