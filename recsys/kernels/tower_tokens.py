"""Histories as the tokens of the user tower, compiled: what `recsys.served.tower_session` reads.

Legend: B requests, L history length, T tokens (a start token, then events), D width.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import BOOL, FLOAT, INT, NOTHING, compiled, given, written
from recsys.types import FloatArray, RowArray

_OTHER_KIND = 1


@compiled(INT, FLOAT, given(numba.int64, 1))
def gap_bucket(gap_s: float, bounds_ms: NDArray[np.int64]) -> int:
    """`recsys.tower_networks.gap_buckets` of one gap."""
    if math.isnan(gap_s):
        return 0
    gap_ms = np.rint(gap_s * 1000.0)
    bucket = 1
    for bound in range(len(bounds_ms)):
        bucket += gap_ms >= bounds_ms[bound]
    return bucket


@compiled(
    NOTHING,
    given(numba.float32, 1),
    FLOAT,
    given(numba.float32, 1),
    given(numba.float32, 1),
    given(numba.float32, 1),
    written(numba.float32, 1),
)
def _fill_token(
    vector: FloatArray,
    scale: float,
    kind: FloatArray,
    gap: FloatArray,
    position: FloatArray,
    token: FloatArray,
) -> None:
    times = np.float32(scale)
    for d in range(len(token)):
        token[d] = vector[d] * times + kind[d] + gap[d] + position[d]


@compiled(NOTHING, INT, written(numba.float32, 2), written(numba.float32, 2))
def _mark_newest(at: int, newest: FloatArray, unseen: FloatArray) -> None:
    """Mark the token `at` and the one before, and what stands after each, [2, T] both."""
    for one in range(2):
        place = max(at - one, 0)
        newest[one, place] = 1.0
        for token in range(newest.shape[1]):
            unseen[one, token] = 0.0 if token <= place else -np.inf


@compiled(
    BOOL,
    given(numba.int32, 2),
    given(numba.uint8, 2),
    given(numba.float64, 2),
    given(numba.float32, 2),
    given(numba.float32, 1),
    given(numba.float32, 2),
    given(numba.float32, 2),
    given(numba.float32, 2),
    FLOAT,
    given(numba.int64, 1),
    written(numba.float32, 3),
    written(numba.float32, 3),
    written(numba.float32, 4),
)
def fill_tokens(
    items: RowArray,
    kinds: NDArray[np.uint8],
    ages_s: NDArray[np.float64],
    vectors: FloatArray,
    start: FloatArray,
    kind_vectors: FloatArray,
    gap_vectors: FloatArray,
    positions: FloatArray,
    scale: float,
    bounds_ms: NDArray[np.int64],
    tokens: FloatArray,
    newest: FloatArray,
    unseen: FloatArray,
) -> bool:
    """Fill what the tower reads; False where a history names a row beyond the vectors.

    Args:
        items: [B, L], -1 is padding, like kinds and ages.
        vectors: of items, [N, D].
        start: of the start token, [D].
        kind_vectors: [kinds, D]; a kind beyond them is read as any other.
        gap_vectors: [buckets, D].
        positions: [longest T, D].
        scale: of item vectors.
        bounds_ms: between the buckets of gaps.
        tokens: filled, [B, T, D]; of a longer history the newest T - 1 events.
        newest: zeros, [B, 2, T]; 1 where the newest event's token stands, and the one before.
        unseen: filled, [B, 1, 2, T], -inf for tokens after those.
    """
    n_tokens = tokens.shape[1]
    for request in range(len(items)):
        n_events = 0
        for column in range(items.shape[1]):
            if items[request, column] >= len(vectors):
                return False
            n_events += items[request, column] >= 0
        n_skipped = max(0, n_events - (n_tokens - 1))
        for d in range(len(start)):
            tokens[request, 0, d] = start[d] + positions[0, d]
        at, before_s = 0, math.nan
        for column in range(items.shape[1]):
            row = items[request, column]
            if row < 0:
                continue
            if n_skipped > 0:
                n_skipped -= 1
                continue
            at += 1
            kind = np.int64(kinds[request, column])
            _fill_token(
                vectors[row],
                scale,
                kind_vectors[kind if kind < len(kind_vectors) else _OTHER_KIND],
                gap_vectors[gap_bucket(before_s - ages_s[request, column], bounds_ms)],
                positions[at],
                tokens[request, at],
            )
            before_s = ages_s[request, column]
        tokens[request, at + 1 :] = 0.0
        _mark_newest(at, newest[request], unseen[request, 0])
    return True
