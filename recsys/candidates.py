"""What the retrieval sources found becomes one candidate list per request.

NumPy over a whole batch; knows neither indexes nor models. A list never names an item twice and
never names one that the request excludes or the catalogue blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    all_rows = np.concatenate(rows, axis=1)
    all_scores = np.concatenate(scores, axis=1)
    low = np.where(all_rows < 0, np.int32(NO_ROW), all_rows).view(np.uint32)
    found = np.where((all_rows < 0) | np.isnan(all_scores), -np.inf, all_scores)
    keys = np.sort(_descending_keys(found, low), axis=1)[:, :k]
    best_rows = np.full((len(keys), k), NO_ROW, dtype=np.int32)
    best_scores = np.full((len(keys), k), -np.inf, dtype=np.float32)
    best_rows[:, : keys.shape[1]] = (keys & _LOW_BITS).astype(np.uint32).view(np.int32)
    best_scores[:, : keys.shape[1]] = _scores_of_keys(keys)
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
    rows = np.concatenate([index_rows, *(found for _, found in extras)], axis=1)  # [B, M]
    n_index = index_rows.shape[1]
    removed = (rows >= 0) & _is_removed(rows, excluded, blocked)
    keep = _choose(rows, (rows >= 0) & ~removed, n_index, n_candidates)
    columns = np.argsort(~keep, axis=1, kind="stable")[:, :n_candidates]
    n_kept = np.minimum(keep.sum(axis=1), n_candidates)
    used = np.arange(columns.shape[1]) < n_kept[:, None]

    def picked(values: NDArray[np.generic], padding: object) -> NDArray[np.generic]:
        chosen = np.full((len(rows), n_candidates), padding, dtype=values.dtype)
        wide = np.broadcast_to(values, rows.shape)
        taken = np.take_along_axis(wide, columns, axis=1)
        chosen[:, : columns.shape[1]] = np.where(used, taken, chosen[:, : columns.shape[1]])
        return chosen

    scores = np.full(rows.shape, np.nan, dtype=np.float32)
    scores[:, :n_index] = index_scores
    widths = [n_index, *(found.shape[1] for _, found in extras)]
    names = np.array([Source.INDEX, *(source for source, _ in extras)], dtype=np.int8)
    ranks = np.concatenate([np.arange(width, dtype=np.int32) for width in widths])
    return CandidateSet(
        rows=picked(rows, NO_ROW).astype(np.int32),
        sources=picked(np.repeat(names, widths), -1).astype(np.int8),
        ranks=picked(ranks, -1).astype(np.int32),
        retrieval_scores=picked(scores, np.nan).astype(np.float32),
        n_removed=removed.sum(axis=1).astype(np.int32),
    )


def _is_removed(
    rows: RowArray, excluded: Sequence[RowArray], blocked: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """True where a request excludes its candidate or the catalogue blocks it; padding is unsaid."""
    highest = max(
        int(rows.max(initial=0)), max((int(e.max(initial=0)) for e in excluded), default=0)
    )
    marks = np.zeros(highest + 2, dtype=np.bool_)  # the last one is where -1 lands
    removed = np.zeros(rows.shape, dtype=np.bool_)
    for request, unwanted in enumerate(excluded):
        if len(unwanted):
            marks[unwanted] = True
            removed[request] = marks[rows[request]]
            marks[unwanted] = False
    if blocked is not None and len(blocked):
        removed |= blocked[np.clip(rows, 0, len(blocked) - 1)] & (rows < len(blocked))
    return removed


def _choose(
    rows: RowArray, alive: NDArray[np.bool_], n_index: int, n_candidates: int
) -> NDArray[np.bool_]:
    """Which columns make the list: a prefix of the index's, and every extra not in that prefix.

    Lengthening the prefix by one adds one candidate and spares at most one extra, so the total
    never falls, and the longest prefix that still fits leaves no place empty.
    """
    first = _first_columns(rows)
    index_alive = alive[:, :n_index] & (first[:, :n_index] == np.arange(n_index))
    extra_alive = alive[:, n_index:] & (
        _first_columns(rows[:, n_index:]) == np.arange(rows.shape[1] - n_index)
    )
    home = first[:, n_index:]  # [B, m], the index column of an extra the index found too
    shared = extra_alive & (home < n_index)
    requests, extra_columns = np.nonzero(shared)
    is_shared = np.zeros(index_alive.shape, dtype=np.bool_)
    is_shared[requests, home[requests, extra_columns]] = True
    totals = (  # [B, C0], list length if the prefix ends with this column
        np.cumsum(index_alive & ~is_shared, axis=1) + extra_alive.sum(axis=1)[:, None]
    )
    keep_index = index_alive & (totals <= n_candidates)
    keep_extra = extra_alive.copy()
    keep_extra[requests, extra_columns] = ~keep_index[requests, home[requests, extra_columns]]
    return np.concatenate([keep_index, keep_extra], axis=1)


def _first_columns(rows: RowArray) -> RowArray:
    """For every column the first column of its request that holds the same row."""
    if rows.shape[1] == 0:
        return rows
    columns = np.arange(rows.shape[1], dtype=np.uint64)
    keys = np.sort((rows.view(np.uint32).astype(np.uint64) << _HALF) | columns, axis=1)
    names = keys >> _HALF
    in_order = (keys & _LOW_BITS).astype(np.int32)
    starts = np.ones(rows.shape, dtype=np.bool_)
    starts[:, 1:] = names[:, 1:] != names[:, :-1]
    group = np.maximum.accumulate(np.where(starts, columns.astype(np.int64), 0), axis=1)
    first = np.empty(rows.shape, dtype=np.int32)
    np.put_along_axis(first, in_order, np.take_along_axis(in_order, group, axis=1), axis=1)
    return first


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


def _scores_of_keys(keys: NDArray[np.uint64]) -> FloatArray:
    """The scores that `_descending_keys` packed."""
    rising = ~(keys >> _HALF).astype(np.uint32)
    bits = np.where(rising >> 31, rising & np.uint32(0x7FFF_FFFF), ~rising)
    return bits.view(np.float32)
