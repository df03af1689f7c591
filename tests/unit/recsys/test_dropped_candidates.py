"""What retrieval found and the merge cut away: exactly that, drawn evenly and by seed alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates import CandidateSet, merge_sources
from recsys.dropped_candidates import DroppedDraw, draw_dropped
from recsys.types import RowArray, Source

N_ITEMS = 5_000


def merged(
    found: RowArray, beside: RowArray, excluded: list[RowArray], n_candidates: int
) -> CandidateSet:
    """The lists that the merge makes of an index's answer and one source beside it."""
    return merge_sources(
        found, scores_of(found), [(Source.POPULAR, beside)], excluded, None, n_candidates
    )


def scores_of(found: RowArray) -> np.ndarray:
    """A score per column, falling."""
    falling = np.linspace(1, 0, found.shape[1], dtype=np.float32)
    return np.where(found >= 0, falling, -np.inf).astype(np.float32)


def draw(
    found: RowArray,
    candidates: CandidateSet,
    excluded: list[RowArray],
    n: int,
    seeds: list[int] | None = None,
    blocked: np.ndarray | None = None,
) -> DroppedDraw:
    """The draw of a batch."""
    of = np.array(range(len(found)) if seeds is None else seeds, np.uint64)
    return draw_dropped(found, scores_of(found), candidates, excluded, blocked, of, n)


def a_batch(seed: int, n_requests: int, width: int) -> tuple[RowArray, RowArray, list[RowArray]]:
    """Random answers padded at random, popular items and exclusions that overlap with them."""
    rng = np.random.default_rng(seed)
    found = np.stack([rng.permutation(N_ITEMS)[:width] for _ in range(n_requests)])
    lengths = rng.integers(0, width + 1, n_requests)
    found = np.where(np.arange(width) < lengths[:, None], found, -1)
    beside = np.concatenate([found[:, :4], rng.integers(0, N_ITEMS, (n_requests, 4))], axis=1)
    excluded = [
        np.concatenate([rng.choice(row, 6), rng.integers(0, N_ITEMS, int(rng.integers(0, 300)))])
        for row in found
    ]
    unwanted: list[RowArray] = [row[row >= 0].astype(np.int32) for row in excluded]
    return found.astype(np.int32), beside.astype(np.int32), unwanted


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 60), st.integers(1, 40),
    st.integers(1, 70), st.booleans(),
)  # fmt: skip
def test_the_drawn_are_found_allowed_and_on_no_list(
    seed: int, n_requests: int, width: int, n_candidates: int, n: int, is_blocking: bool
) -> None:
    """Their number is counted exactly; where enough is asked for, all of them are drawn."""
    found, beside, excluded = a_batch(seed, n_requests, width)
    blocked = np.random.default_rng(seed).random(N_ITEMS - 50) < 0.3 if is_blocking else None
    candidates = merge_sources(
        found, scores_of(found), [(Source.POPULAR, beside)], excluded, blocked, n_candidates
    )
    drawn = draw(found, candidates, excluded, n, blocked=blocked)
    for i, row in enumerate(found):
        unwanted = {*excluded[i].tolist(), *candidates.rows[i].tolist(), -1}
        dropped = [
            (rank, item)
            for rank, item in enumerate(row.tolist())
            if item not in unwanted
            and not (blocked is not None and item < len(blocked) and blocked[item])
        ]
        assert drawn.n_dropped[i] == len(dropped)
        ranks = drawn.ranks[i][drawn.rows[i] >= 0].tolist() if drawn.rows.size else []
        assert len(ranks) == min(n, len(dropped))
        assert sorted(set(ranks)) == ranks
        for place, rank in enumerate(ranks):
            assert (rank, drawn.rows[i, place]) in dropped
            assert drawn.retrieval_scores[i, place] == scores_of(found)[i, rank]


def test_every_subset_is_drawn_equally_often() -> None:
    """Two of five; 4 standard errors."""
    n = 5_000
    found = np.broadcast_to(np.arange(8, dtype=np.int32), (n, 8))
    nothing = [np.empty(0, np.int32)] * n
    candidates = merged(found, found[:, :0], nothing, 3)
    drawn = draw(found, candidates, nothing, 2)
    pairs, counts = np.unique(drawn.rows, axis=0, return_counts=True)
    assert [tuple(pair) for pair in pairs] == list(combinations(range(3, 8), 2))
    assert np.abs(counts / n - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / n)


def test_a_draw_depends_on_its_seed_and_not_on_its_batch() -> None:
    """As slates do."""
    found, beside, excluded = a_batch(3, 8, 50)
    found[:, :] = np.abs(found)
    candidates = merged(found, beside, excluded, 12)
    whole = draw(found, candidates, excluded, 3, seeds=[7] * 8)
    alone = merged(found[5:6], beside[5:6], excluded[5:6], 12)
    one = draw(found[5:6], alone, excluded[5:6], 3, seeds=[7])
    assert whole.rows[5].tolist() == one.rows[0].tolist()
    other = draw(found, candidates, excluded, 3, seeds=[8] * 8)
    assert other.rows.tolist() != whole.rows.tolist()
    kept = whole.of(np.array([5, 1]))
    assert kept.rows.tolist() == [whole.rows[5].tolist(), whole.rows[1].tolist()]
    assert kept.n_dropped.tolist() == whole.n_dropped[[5, 1]].tolist()


@pytest.mark.parametrize(("width", "n"), [(0, 3), (5, 3), (20, 0)])
def test_nothing_is_drawn_where_there_is_nothing_or_none_is_wanted(width: int, n: int) -> None:
    """No index, a list longer than its answer, and the setting's zero."""
    found = np.arange(2 * width, dtype=np.int32).reshape(2, width)
    nothing = [np.empty(0, np.int32)] * 2
    drawn = draw(found, merged(found, found[:, :0], nothing, 10), nothing, n)
    assert (drawn.rows == -1).all()
    assert (drawn.ranks == -1).all()
    assert drawn.n_dropped.tolist() == [0, 0]
