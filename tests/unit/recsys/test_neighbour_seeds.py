"""The seed that brought an item, against looking at every neighbour of every seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.neighbour_candidates import SEED_DECAY, NeighbourTable, neighbour_candidates
from recsys.neighbour_seeds import strongest_seeds

N_ITEMS, N_NEIGHBOURS = 30, 5


def a_table(seed: int) -> NeighbourTable:
    """Random neighbours, some lists shorter than others."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(N_ITEMS)[:N_NEIGHBOURS] for _ in range(N_ITEMS)])
    scores = rng.random(rows.shape).astype(np.float16)
    is_padding = rng.random(rows.shape) < 0.2
    return NeighbourTable(
        np.where(is_padding, -1, rows).astype(np.int32),
        np.where(is_padding, -np.inf, scores).astype(np.float16),
    )


@given(seed=st.integers(0, 10_000), n_seeds=st.integers(0, 6), n_padding=st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_a_neighbour_is_the_seeds_that_makes_it_worth_most(
    seed: int, n_seeds: int, n_padding: int
) -> None:
    """A seed counts less the older it is; whatever the source proposes has one."""
    table = a_table(seed)
    picked = np.random.default_rng(seed).permutation(N_ITEMS)[:n_seeds]
    seeds = np.concatenate([picked, np.full(n_padding, -1)]).astype(np.int32)
    everything = np.arange(N_ITEMS, dtype=np.int32)
    found = strongest_seeds(table, seeds, everything)
    for row, named in zip(everything.tolist(), found.tolist(), strict=True):
        worth = {
            one: float(score) * SEED_DECAY**place
            for place, one in enumerate(picked.tolist())
            for other, score in zip(table.rows[one], table.scores[one], strict=True)
            if other == row
        }
        assert named in worth if worth else named == -1
        if worth:
            assert worth[named] > max(worth.values()) - 1e-6
    proposed = neighbour_candidates(table, seeds[None], np.empty((1, 0), np.int32), N_ITEMS)[0]
    assert (found[proposed[proposed >= 0]] >= 0).all()


def test_a_user_without_seeds_and_a_table_of_nothing_name_nobody() -> None:
    """Nothing to look through."""
    rows = np.asarray([1, 2], np.int32)
    nobody = strongest_seeds(a_table(1), np.asarray([-1], np.int32), rows)
    nothing = strongest_seeds(NeighbourTable.empty(0, 0), np.asarray([3], np.int32), rows)
    assert (nobody.tolist(), nothing.tolist()) == ([-1, -1], [-1, -1])
