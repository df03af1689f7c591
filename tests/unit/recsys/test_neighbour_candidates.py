"""Item-to-item candidates: the array code against a plain reading of what it promises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features import FIRST_KIND, OTHER_KIND, PADDING_KIND
from recsys.neighbour_candidates import (
    SEED_DECAY,
    NeighbourTable,
    neighbour_candidates,
    newest_seeds,
    seed_kinds,
)
from recsys.types import NO_ROW, Batch, RowArray

N_ITEMS, N_KEPT, LENGTH, N_SEEDS = 12, 3, 9, 4
KINDS = ("click", "dismiss", "like")
IS_SEED_KIND = seed_kinds(KINDS, ("dismiss",))

events = st.lists(
    st.tuples(st.integers(0, N_ITEMS - 1), st.sampled_from([OTHER_KIND, 2, 3, 4])), max_size=LENGTH
)
batches = st.lists(events, min_size=1, max_size=4)


@st.composite
def tables(draw: st.DrawFn) -> NeighbourTable:
    """Neighbours of every item, each once, at falling scores that are exact as halves."""
    table = NeighbourTable.empty(N_ITEMS, N_KEPT)
    for item in range(N_ITEMS):
        others = draw(
            st.lists(st.integers(0, N_ITEMS - 1), max_size=N_KEPT, unique=True).map(
                lambda found, item=item: [row for row in found if row != item]
            )
        )
        scores = sorted(
            draw(st.lists(st.integers(1, 64), min_size=len(others), max_size=len(others)))
        )
        table.rows[item, : len(others)] = others
        table.scores[item, : len(others)] = [score / 64 for score in reversed(scores)]
    return table


def history_of(users: Sequence[Sequence[tuple[int, int]]]) -> Batch:
    """The arrays of these events, oldest first, as `history_arrays` aligns them."""
    items = np.full((len(users), LENGTH), NO_ROW, np.int32)
    kinds = np.full((len(users), LENGTH), PADDING_KIND, np.uint8)
    for user, found in enumerate(users):
        if found:
            items[user, -len(found) :] = [row for row, _ in found]
            kinds[user, -len(found) :] = [kind for _, kind in found]
    return {"items": items, "kinds": kinds}


def plain_seeds(found: Sequence[tuple[int, int]]) -> list[int]:
    """The newest items of kinds that make a seed, each once."""
    newest_first = [row for row, kind in reversed(found) if IS_SEED_KIND[kind]]
    return list(dict.fromkeys(newest_first))[:N_SEEDS]


def plain_candidates(
    table: NeighbourTable, seeds: Sequence[int], seen: set[int], n_candidates: int
) -> list[int]:
    """Sums of decayed scores, best first, equal sums by row."""
    worth: dict[int, float] = {}
    for place, seed in enumerate(seeds):
        for row, score in zip(table.rows[seed].tolist(), table.scores[seed].tolist(), strict=True):
            if row >= 0 and row not in seen:
                worth[row] = worth.get(row, 0.0) + score * SEED_DECAY**place
    return sorted(worth, key=lambda row: (-round(worth[row], 5), row))[:n_candidates]


def unpadded(rows: RowArray) -> list[list[int]]:
    """The rows of each request; padding stands at the end."""
    lists = [[row for row in one if row >= 0] for one in rows.tolist()]
    for one, found in zip(rows.tolist(), lists, strict=True):
        assert one[: len(found)] == found
    return lists


def test_only_known_kinds_that_are_not_negative_make_seeds() -> None:
    """An unknown kind could be a negative one."""
    assert IS_SEED_KIND.tolist() == [False, False, True, False, True]
    assert len(IS_SEED_KIND) == FIRST_KIND + len(KINDS)


@settings(deadline=None, max_examples=50)
@given(batches)
def test_seeds_are_the_newest_items_each_once(users: list[list[tuple[int, int]]]) -> None:
    """Newest first; what a user engaged with twice takes one place."""
    found = newest_seeds(history_of(users), IS_SEED_KIND, N_SEEDS)
    assert unpadded(found) == [plain_seeds(one) for one in users]


@settings(deadline=None, max_examples=50)
@given(tables(), batches, st.integers(0, 8))
def test_candidates_are_the_best_sums_of_decayed_scores(
    table: NeighbourTable, users: list[list[tuple[int, int]]], n_candidates: int
) -> None:
    """Without what the history names, each once, and whatever else is in the batch."""
    history = history_of(users)
    seeds = newest_seeds(history, IS_SEED_KIND, N_SEEDS)
    found = neighbour_candidates(table, seeds, history["items"], n_candidates)
    assert found.shape == (len(users), n_candidates)
    for one, events_of_user in zip(unpadded(found), users, strict=True):
        seen = {row for row, _ in events_of_user}
        own_seeds = plain_seeds(events_of_user)
        expected = plain_candidates(table, own_seeds, seen, n_candidates)
        worth = dict.fromkeys(expected)
        assert len(one) == len(expected)
        assert len(set(one)) == len(one)
        assert not set(one) & seen
        # In single precision two sums that are nearly equal may change places.
        assert one == expected or sums_of(table, own_seeds, one) == pytest.approx(
            sums_of(table, own_seeds, list(worth)), abs=1e-5
        )


def sums_of(table: NeighbourTable, seeds: Sequence[int], rows: Sequence[int]) -> list[float]:
    """The worth of each row."""
    return [
        sum(
            float(table.scores[seed][table.rows[seed] == row].sum()) * SEED_DECAY**place
            for place, seed in enumerate(seeds)
        )
        for row in rows
    ]


@settings(deadline=None, max_examples=25)
@given(tables(), batches)
def test_a_request_s_candidates_do_not_depend_on_its_batch(
    table: NeighbourTable, users: list[list[tuple[int, int]]]
) -> None:
    """To the bit."""
    history = history_of(users)
    seeds = newest_seeds(history, IS_SEED_KIND, N_SEEDS)
    together = neighbour_candidates(table, seeds, history["items"], 6)
    for user in range(len(users)):
        own = slice(user, user + 1)
        alone = neighbour_candidates(table, seeds[own], history["items"][own], 6)
        assert alone.tolist() == together[own].tolist()


def test_an_empty_batch_and_an_empty_table_have_no_candidates() -> None:
    """Shapes stay."""
    history = history_of([[(1, 2)]])
    seeds = newest_seeds(history, IS_SEED_KIND, N_SEEDS)
    nobody = NeighbourTable.empty(N_ITEMS, 0)
    assert neighbour_candidates(nobody, seeds, history["items"], 2).tolist() == [[-1, -1]]
    empty = NeighbourTable.empty(N_ITEMS, N_KEPT)
    assert neighbour_candidates(empty, seeds, history["items"], 2).tolist() == [[-1, -1]]
    assert neighbour_candidates(empty, seeds[:0], history["items"][:0], 2).shape == (0, 2)


def test_a_table_with_other_neighbours_leaves_the_first_one_as_it_is() -> None:
    """Requests may be reading it."""
    table = NeighbourTable.empty(4, 2)
    theirs = NeighbourTable(np.array([[3, 1]], np.int32), np.array([[0.5, 0.25]], np.float16))
    changed = table.replaced(np.array([2], np.int32), theirs)
    assert (table.rows == NO_ROW).all()
    assert changed.rows.tolist() == [[-1, -1], [-1, -1], [3, 1], [-1, -1]]
    assert changed.scores[2].tolist() == [0.5, 0.25]
