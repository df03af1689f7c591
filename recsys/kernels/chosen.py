"""What is told of the candidates that a slate shows and of the best that it does not, compiled."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import INT, NOTHING, compiled, given, written
from recsys.types import FloatArray, RowArray


@compiled(NOTHING, given(numba.float32, 1), written(numba.int64, 1), written(numba.int32, 1))
def _rank(utility: FloatArray, by_score: NDArray[np.int64], score_ranks: RowArray) -> None:
    """Columns by falling utility, equal ones in order, NaN with -inf; and the place of each."""
    sunk = np.empty(len(utility), np.float32)
    for column in range(len(utility)):
        sunk[column] = np.inf if math.isnan(utility[column]) else -utility[column]
    by_score[:] = np.argsort(sunk, kind="mergesort")
    for place in range(len(by_score)):
        score_ranks[by_score[place]] = place


@compiled(
    INT,
    given(numba.float32, 1),
    given(numba.int64, 1),
    given(numba.int32, 1),
    INT,
    written(numba.int32, 1),
)
def _find_unshown(
    utility: FloatArray,
    by_score: NDArray[np.int64],
    picked: RowArray,
    n_most: int,
    unshown: RowArray,
) -> int:
    """The best-scored columns that the slate does not show; how many there are."""
    is_shown = np.zeros(len(utility), np.bool_)
    for position in range(len(picked)):
        if picked[position] >= 0:
            is_shown[picked[position]] = True
    n_found = 0
    for place in range(len(by_score)):
        column = by_score[place]
        if n_found == n_most or not math.isfinite(utility[column]):
            break
        if not is_shown[column]:
            unshown[n_found] = column
            n_found += 1
    return n_found


@compiled(
    NOTHING,
    given(numba.int32, 2),
    given(numba.int8, 2),
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.float32, 2),
    given(numba.int32, 2),
    INT,
    written(numba.int64, 3),
    written(numba.float64, 3),
    written(numba.int64, 2),
)
def fill_chosen(
    rows: RowArray,
    sources: NDArray[np.int8],
    ranks: RowArray,
    retrieval_scores: FloatArray,
    utility: FloatArray,
    picked: RowArray,
    n_unshown: int,
    told: NDArray[np.int64],
    scores: NDArray[np.float64],
    lengths: NDArray[np.int64],
) -> None:
    """Fill what is told of each slate's K items, and behind them of the U best it does not show.

    Args:
        rows: of the candidates, [B, C], like the next four.
        picked: columns of the slates, [B, K], -1 at the end of a shorter one.
        n_unshown: U.
        told: filled, [4, B, K + U]: row, source, rank in its source, rank by utility.
        scores: filled, [2, B, K + U]: utility and retrieval score, 0 where they are not finite.
        lengths: filled, [B, 2], how many items are shown, and how many of the others there are.
    """
    n_candidates, n_positions = rows.shape[1], picked.shape[1]
    by_score, score_ranks = np.empty(n_candidates, np.int64), np.empty(n_candidates, np.int32)
    columns = np.empty(n_positions + n_unshown, np.int32)
    for request in range(len(rows)):
        _rank(utility[request], by_score, score_ranks)
        n_shown = 0
        while n_shown < n_positions and picked[request, n_shown] >= 0:
            columns[n_shown] = picked[request, n_shown]
            n_shown += 1
        n_others = _find_unshown(
            utility[request], by_score, picked[request], n_unshown, columns[n_positions:]
        )
        lengths[request, 0], lengths[request, 1] = n_shown, n_others
        for at in range(n_positions + n_others):
            if n_shown <= at < n_positions:
                continue
            column = columns[at]
            told[0, request, at] = rows[request, column]
            told[1, request, at] = sources[request, column]
            told[2, request, at] = ranks[request, column]
            told[3, request, at] = score_ranks[column]
            # JSON has no infinity and no NaN; they stand only where a stage was away.
            score, found = utility[request, column], retrieval_scores[request, column]
            scores[0, request, at] = score if math.isfinite(score) else 0.0
            scores[1, request, at] = found if math.isfinite(found) else 0.0
