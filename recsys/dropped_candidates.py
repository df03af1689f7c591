"""Draws from what the index found and the merge cut away: negatives between retrieval and scorer.

NumPy over a whole batch; knows neither models nor logs. A draw depends on the request's seed and
its own candidates, never on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import CandidateSet
from recsys.seeded_draws import uniform_draws
from recsys.types import NO_ROW, FloatArray, RowArray, Source

_SALT = np.uint64(0xD1B5_4A32_D192_ED03)
"""Apart from the draws of the slate, which come from the same seed."""
_SLOTS_PER_ROW = 8
"""Of the table that rows are looked up in; more slots, fewer rows that share one."""
_NO_ENTRY = -2
_ROW_BITS, _BITS_OF_THE_FEW = 31, 7


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
    requests = np.arange(n_requests)
    n_kept = np.count_nonzero(candidates.sources == Source.INDEX, axis=1)
    last = np.where(n_kept > 0, candidates.ranks[requests, n_kept - 1], -1)
    first = int(last.min(initial=width)) + 1
    if not n_drawn or first >= width:
        return no_draw(n_requests)
    tail = index_rows[:, first:]
    beside = candidates.rows[:, int(n_kept.min()) :]
    is_dropped = (tail >= 0) & (np.arange(first, width, dtype=np.int32) > last[:, None])
    is_dropped &= ~_are_named(tail, beside, excluded)
    if blocked is not None and len(blocked):
        is_dropped &= ~(blocked.take(tail, mode="clip") & (tail < len(blocked)))
    n_dropped = np.count_nonzero(is_dropped, axis=1)
    places = _subsets(n_dropped, seeds, min(n_drawn, width))
    is_drawn = places < n_dropped[:, None]
    starts = np.cumsum(n_dropped) - n_dropped
    flat = np.append(np.flatnonzero(is_dropped), 0)  # never empty
    chosen = first + flat[np.where(is_drawn, starts[:, None] + places, -1)] % tail.shape[1]
    own = requests[:, None]
    return DroppedDraw(
        rows=np.where(is_drawn, index_rows[own, chosen], NO_ROW).astype(np.int32),
        ranks=np.where(is_drawn, chosen, -1).astype(np.int32),
        retrieval_scores=np.where(is_drawn, index_scores[own, chosen], 0).astype(np.float32),
        n_dropped=n_dropped.astype(np.int32),
    )


def no_draw(n_requests: int) -> DroppedDraw:
    """The draw from nothing."""
    empty = np.empty((n_requests, 0), np.int32)
    return DroppedDraw(empty, empty, empty.astype(np.float32), np.zeros(n_requests, np.int32))


def _are_named(rows: RowArray, beside: RowArray, excluded: Sequence[RowArray]) -> NDArray[np.bool_]:
    """Where a request's row is in its part of `beside` or of `excluded`.

    Every request has a table of slots, chosen by bits of a row, that holds the row itself: what
    is found there is named. Of rows that share a slot one is kept, the others come again.
    """
    lengths = np.array([len(one) for one in excluded], dtype=np.intp)
    own = np.arange(len(rows), dtype=np.int32)
    named = np.concatenate([beside.ravel(), *excluded])
    owner = np.concatenate([np.repeat(own, beside.shape[1]), np.repeat(own, lengths)])
    found = np.zeros(rows.shape, dtype=np.bool_)
    shift, bits = 0, (_SLOTS_PER_ROW * int(lengths.max() + beside.shape[1])).bit_length()
    while len(named):
        low = np.int32((1 << bits) - 1)
        slots = ((named >> shift) & low) + (owner << bits)
        table = np.full(len(rows) << bits, _NO_ENTRY, dtype=np.int32)
        table[slots] = named
        found |= table.take(((rows >> shift) & low) + (own << bits)[:, None]) == rows
        lost = np.flatnonzero(table.take(slots) != named)
        named, owner = named[lost], owner[lost]
        # What shares a slot shares these bits, and differs in others.
        shift, bits = (shift + bits) % _ROW_BITS, _BITS_OF_THE_FEW
    return found


def _subsets(sizes: NDArray[np.intp], seeds: NDArray[np.uint64], n: int) -> NDArray[np.intp]:
    """Random subsets [B, n] of 0..size-1, rising; a size below `n` is taken whole.

    Places beyond a request's size hold the largest integer.
    """
    draws = uniform_draws(seeds ^ _SALT, n)
    none = np.iinfo(np.intp).max
    picked = np.full((len(sizes), n), none, dtype=np.intp)
    for step in range(n):
        last = sizes - (n - step)
        drawn = (draws[:, step] * (last + 1)).astype(np.intp)
        is_taken = (picked[:, :step] == drawn[:, None]).any(axis=1)
        picked[:, step] = np.where(last < 0, none, np.where(is_taken, last, drawn))
    picked.sort(axis=1)
    return picked
