"""Merging shards and sources: against slow references, with hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.candidates import best_columns, merge_sources, merge_top_k
from recsys.types import FloatArray, RowArray, Source

N_ITEMS = 30


def top_of(scores: FloatArray, rows: RowArray, k: int) -> tuple[RowArray, FloatArray]:
    """The best k of one shard, as a shard answers: equal scores by row, padded."""
    order = sorted(range(len(rows)), key=lambda at: (-scores[at], rows[at]))[:k]
    padding = k - len(order)
    return (
        np.array([*rows[order], *[-1] * padding], dtype=np.int32),
        np.array([*scores[order], *[-np.inf] * padding], dtype=np.float32),
    )


@settings(deadline=None, max_examples=50)
@given(
    scores=st.lists(
        st.lists(st.sampled_from([-2.5, -0.0, 0.0, 1.0, 1e-30, 7.25]), min_size=12, max_size=12),
        min_size=1,
        max_size=3,
    ),
    shard_of=st.lists(st.integers(0, 2), min_size=12, max_size=12),
    k=st.integers(1, 15),
)
def test_merging_shards_equals_searching_one_big_index(
    scores: list[list[float]], shard_of: list[int], k: int
) -> None:
    """However the items are sliced, the merged best k are those of all items together."""
    table = np.array(scores, dtype=np.float32)
    shards: list[tuple[RowArray, FloatArray]] = []
    for shard in range(3):
        rows = np.flatnonzero(np.array(shard_of) == shard).astype(np.int32)
        answers = [top_of(request[rows], rows, k) for request in table]
        shards.append((np.stack([a[0] for a in answers]), np.stack([a[1] for a in answers])))
    got_rows, got_scores = merge_top_k([s[0] for s in shards], [s[1] for s in shards], k)
    expected = [top_of(request, np.arange(12, dtype=np.int32), k) for request in table]
    assert np.array_equal(got_rows, np.stack([answer[0] for answer in expected]))
    assert np.array_equal(got_scores, np.stack([answer[1] for answer in expected]))


def test_an_empty_shard_and_a_nan_score_merge_as_nothing() -> None:
    """NaN ranks last and never above a real score; no shard at all is padding."""
    rows = np.array([[4, 2, -1]], dtype=np.int32)
    scores = np.array([[np.nan, -1e30, -np.inf]], dtype=np.float32)
    nothing = np.full((1, 0), -1, dtype=np.int32)
    merged, values = merge_top_k([rows, nothing], [scores, nothing.astype(np.float32)], 4)
    assert merged.tolist() == [[2, 4, -1, -1]]
    assert values.tolist() == [[np.float32(-1e30), -np.inf, -np.inf, -np.inf]]


def test_best_columns_orders_by_score_then_column() -> None:
    """NaN and -inf come last."""
    scores = np.array([[0.5, np.nan, 2.0, 0.5, -np.inf]], dtype=np.float32)
    assert best_columns(scores, 9).tolist() == [[2, 0, 3, 1, 4]]
    assert best_columns(scores, 2).tolist() == [[2, 0]]


def slow_merge(
    index: list[int],
    extras: list[tuple[Source, list[int]]],
    unwanted: set[int],
    n_candidates: int,
) -> list[tuple[int, int, int]]:
    """The contract one request at a time: (row, source, rank), trying every index prefix."""
    living = list(
        {row: rank for rank, row in reversed(list(enumerate(index)))}.items()
    )  # first rank of each row
    living = sorted(((r, k) for r, k in living if r >= 0 and r not in unwanted), key=lambda x: x[1])
    for length in range(len(living), -1, -1):
        chosen = [(row, int(Source.INDEX), rank) for row, rank in living[:length]]
        names = {row for row, _, _ in chosen}
        for source, found in extras:
            for rank, row in enumerate(found):
                if row >= 0 and row not in unwanted and row not in names:
                    names.add(row)
                    chosen.append((row, int(source), rank))
        if len(chosen) <= n_candidates:
            return chosen
    return chosen[:n_candidates]


row_lists = st.lists(st.integers(-1, N_ITEMS - 1), min_size=6, max_size=6)
requests = st.tuples(
    st.lists(st.integers(-1, N_ITEMS - 1), min_size=10, max_size=10, unique=True),
    row_lists,
    row_lists,
    st.lists(st.integers(0, N_ITEMS - 1), max_size=8),
)


@settings(deadline=None, max_examples=50)
@given(
    batch=st.lists(requests, min_size=1, max_size=3),
    blocked_rows=st.sets(st.integers(0, N_ITEMS - 1), max_size=6),
    n_candidates=st.integers(1, 25),
)
def test_sources_merge_as_the_rule_says(
    batch: list[tuple[list[int], list[int], list[int], list[int]]],
    blocked_rows: set[int],
    n_candidates: int,
) -> None:
    """No duplicate, nothing unwanted, extras kept, the longest index prefix that fits."""
    blocked: NDArray[np.bool_] = np.isin(np.arange(N_ITEMS), list(blocked_rows))
    index = np.array([request[0] for request in batch], dtype=np.int32)
    popular = np.array([request[1] for request in batch], dtype=np.int32)
    fresh = np.array([request[2] for request in batch], dtype=np.int32)
    scores = -np.arange(index.size, dtype=np.float32).reshape(index.shape)
    excluded = [np.array(request[3], dtype=np.int32) for request in batch]
    found = merge_sources(
        index,
        scores,
        [(Source.POPULAR, popular), (Source.FRESH, fresh)],
        excluded,
        blocked,
        n_candidates,
    )
    assert found.rows.shape == (len(batch), n_candidates)
    for at, (index_rows, popular_rows, fresh_rows, out) in enumerate(batch):
        unwanted = blocked_rows | set(out)
        extras = [(Source.POPULAR, popular_rows), (Source.FRESH, fresh_rows)]
        expected = slow_merge(index_rows, extras, unwanted, n_candidates)
        padding = [(-1, -1, -1)] * (n_candidates - len(expected))
        got = list(zip(found.rows[at], found.sources[at], found.ranks[at], strict=True))
        assert got == expected + padding
        from_index = found.sources[at] == Source.INDEX
        assert np.array_equal(
            found.retrieval_scores[at][from_index], scores[at][found.ranks[at][from_index]]
        )
        assert np.isnan(found.retrieval_scores[at][~from_index]).all()
        everything = [*index_rows, *popular_rows, *fresh_rows]
        assert found.n_removed[at] == sum(row in unwanted for row in everything)


def test_extras_displace_the_tail_of_the_index() -> None:
    """Two extras cost the index two places, and an extra found by both costs none."""
    index = np.array([[1, 2, 3, 4, 5]], dtype=np.int32)
    scores = np.array([[5, 4, 3, 2, 1]], dtype=np.float32)
    popular = np.array([[1, 9, 8]], dtype=np.int32)
    found = merge_sources(
        index, scores, [(Source.POPULAR, popular)], [np.empty(0, np.int32)], None, 5
    )
    assert found.rows.tolist() == [[1, 2, 3, 9, 8]]
    assert found.sources.tolist() == [[0, 0, 0, 1, 1]]
    assert found.ranks.tolist() == [[0, 1, 2, 1, 2]]


def test_without_any_source_the_list_is_padding() -> None:
    """An empty catalogue gives an answer of the right shape."""
    nothing = np.full((2, 0), -1, dtype=np.int32)
    none_excluded = [np.empty(0, dtype=np.int32)] * 2
    found = merge_sources(nothing, nothing.astype(np.float32), [], none_excluded, None, 3)
    assert (found.rows == -1).all()
    assert found.n_removed.tolist() == [0, 0]
