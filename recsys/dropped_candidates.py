"""Draws from what the index found and the merge cut away: negatives between retrieval and scorer.

A whole batch at once; knows neither models nor logs. A draw depends on the request's seed and
its own candidates, never on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import CandidateSet
from recsys.kernels.dropped import fill_draws
from recsys.kernels.row_table import flat_lists
from recsys.types import NO_ROW, FloatArray, RowArray


@dataclass(frozen=True, slots=True)
class DroppedDraw:
    """What was drawn for a batch, best retrieved first; padding (row and rank -1) at the end."""

    rows: RowArray  # [B, D]
    ranks: RowArray  # [B, D], 0-based place in the index's answer
    retrieval_scores: FloatArray  # [B, D]
    n_dropped: RowArray  # [B], how many there were to draw from

    def of(self, requests: NDArray[np.intp]) -> DroppedDraw:
        """The draws of some requests of the batch."""
        if len(requests) == len(self.rows):
            return self
        return DroppedDraw(
            self.rows[requests],
            self.ranks[requests],
            self.retrieval_scores[requests],
            self.n_dropped[requests],
        )


def draw_dropped(
    index_rows: RowArray,
    index_scores: FloatArray,
    candidates: CandidateSet,
    excluded: Sequence[RowArray],
    blocked: NDArray[np.bool_] | None,
    seeds: NDArray[np.uint64],
    n_drawn: int,
) -> DroppedDraw:
    """Draw up to `n_drawn` of each request's dropped candidates, every subset equally likely.

    Dropped is what the index found, nobody excludes or blocks, and the list does not name. Each
    of `n_dropped` is drawn with probability `min(1, n_drawn / n_dropped)` (Floyd's algorithm).

    Args:
        index_rows: the index's answer, each row once, best first, [B, M], -1 for padding.
        index_scores: its scores, [B, M].
        candidates: what `merge_sources` made of it: a prefix of the answer, then other sources'.
        excluded: per request, rows it must not name, unsorted, of any length.
        blocked: true for rows that no request may name, [N].
        seeds: one random seed per request, [B].
    """
    n_requests, width = index_rows.shape
    if not n_drawn or not width:
        return no_draw(n_requests)
    shape = (n_requests, min(n_drawn, width))
    draw = DroppedDraw(
        rows=np.full(shape, NO_ROW, np.int32),
        ranks=np.full(shape, -1, np.int32),
        retrieval_scores=np.zeros(shape, np.float32),
        n_dropped=np.zeros(n_requests, np.int32),
    )
    fill_draws(
        np.ascontiguousarray(index_rows, np.int32),
        np.ascontiguousarray(index_scores, np.float32),
        np.ascontiguousarray(candidates.rows),
        np.ascontiguousarray(candidates.sources),
        np.ascontiguousarray(candidates.ranks),
        *flat_lists(excluded),
        np.zeros(0, np.bool_) if blocked is None else blocked,
        np.ascontiguousarray(seeds),
        draw.rows,
        draw.ranks,
        draw.retrieval_scores,
        draw.n_dropped,
    )
    return draw


def no_draw(n_requests: int) -> DroppedDraw:
    """The draw from nothing."""
    empty = np.empty((n_requests, 0), np.int32)
    return DroppedDraw(empty, empty, empty.astype(np.float32), np.zeros(n_requests, np.int32))
