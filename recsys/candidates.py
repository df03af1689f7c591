"""What the retrieval sources found becomes one candidate list per request.

A whole batch at once; knows neither indexes nor models. A list never names an item twice and
never names one that the request excludes or the catalogue blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.kernels.candidate_lists import fill_lists, merge_runs
from recsys.kernels.row_table import flat_lists
from recsys.types import NO_ROW, FloatArray, RowArray, Source

_LOW_BITS = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """Candidates of a batch; padding (row -1, source -1, rank -1, score NaN) stands at the end."""

    rows: RowArray  # [B, C]
    sources: NDArray[np.int8]  # [B, C], a `Source`
    ranks: RowArray  # [B, C], 0-based place in its own source's list
    retrieval_scores: FloatArray  # [B, C], NaN where the source gives none
    n_removed: RowArray  # [B], found and then excluded or blocked

    def of(self, requests: NDArray[np.intp]) -> CandidateSet:
        """Those of some requests."""
        if len(requests) == len(self.rows):
            return self
        return CandidateSet(
            rows=self.rows[requests],
            sources=self.sources[requests],
            ranks=self.ranks[requests],
            retrieval_scores=self.retrieval_scores[requests],
            n_removed=self.n_removed[requests],
        )


def merge_top_k(
    rows: Sequence[RowArray], scores: Sequence[FloatArray], k: int
) -> tuple[RowArray, FloatArray]:
    """The best `k` of several shards' answers, as one index over all their items would answer.

    Args:
        rows: per shard, item rows [B, k of the shard], -1 for padding.
        scores: per shard, of the same shapes; NaN ranks with -inf.

    Returns:
        Rows and scores [B, k], best first, equal scores by row; -1 and -inf for padding.
    """
    ends = np.cumsum([one.shape[1] for one in rows])
    best_rows = np.full((len(rows[0]), k), NO_ROW, dtype=np.int32)
    best_scores = np.full((len(rows[0]), k), -np.inf, dtype=np.float32)
    merge_runs(
        _side_by_side(rows, np.int32),
        _side_by_side(scores, np.float32),
        ends,
        best_rows,
        best_scores,
    )
    return best_rows, best_scores


def best_columns(scores: FloatArray, k: int) -> RowArray:
    """The columns of each request's `k` best scores, best first, equal scores by column.

    NaN ranks with -inf.
    """
    columns = np.broadcast_to(np.arange(scores.shape[1], dtype=np.uint32), scores.shape)
    clean = np.where(np.isnan(scores), -np.inf, scores)
    keys = np.sort(_descending_keys(clean, columns), axis=1)[:, :k]
    return (keys & _LOW_BITS).astype(np.int32)


def merge_sources(
    index_rows: RowArray,
    index_scores: FloatArray,
    extras: Sequence[tuple[Source, RowArray]],
    excluded: Sequence[RowArray],
    blocked: NDArray[np.bool_] | None,
    n_candidates: int,
) -> CandidateSet:
    """One candidate list per request from the index and the sources beside it.

    An item found by several sources is the first one's, the index before the extras. Extras have
    their places guaranteed: they displace the tail of the index candidates, one for one, and a
    displaced candidate that an extra source also found comes back as that source's.

    Args:
        index_rows: the index's answer, best first, [B, C0], -1 for padding.
        index_scores: its scores, [B, C0].
        extras: further sources in order of precedence, rows [B, m] each, best first.
        excluded: per request, rows it must not name, unsorted, of any length.
        blocked: true for rows that no request may name, [N].
        n_candidates: C, the width of the answer.
    """
    found = _side_by_side([index_rows, *(rows for _, rows in extras)], np.int32)
    shape = (len(found), n_candidates)
    merged = CandidateSet(
        rows=np.full(shape, NO_ROW, np.int32),
        sources=np.full(shape, -1, np.int8),
        ranks=np.full(shape, -1, np.int32),
        retrieval_scores=np.full(shape, np.nan, np.float32),
        n_removed=np.zeros(len(found), np.int32),
    )
    fill_lists(
        found,
        np.ascontiguousarray(index_scores, np.float32),
        np.array([Source.INDEX, *(source for source, _ in extras)], np.int8),
        np.array([index_rows.shape[1], *(rows.shape[1] for _, rows in extras)], np.int64),
        *flat_lists(excluded),
        np.zeros(0, np.bool_) if blocked is None else blocked,
        merged.rows,
        merged.sources,
        merged.ranks,
        merged.retrieval_scores,
        merged.n_removed,
    )
    return merged


def _side_by_side(arrays: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """Arrays [B, ...] as one, in the memory order that compiled loops read."""
    return np.ascontiguousarray(np.concatenate(arrays, axis=1), dtype)


def _descending_keys(
    scores: FloatArray | NDArray[np.float64], low: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """Keys whose ascending order is by falling score, then by rising `low`.

    The bits of a float, with the sign bit flipped for positives and all bits for negatives, order
    as the floats do; one integer sort then replaces a sort by two keys.
    """
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0.0)).view(np.uint32)
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(0x8000_0000))
    return ((~rising).astype(np.uint64) << _HALF) | low
