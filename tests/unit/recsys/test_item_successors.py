"""What the table of successors says of candidates, and that a broken one is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.item_successors import REACH, ItemSuccessors

N_ITEMS = 30


def a_table(seed: int = 0, n_items: int = N_ITEMS) -> ItemSuccessors:
    """Up to eight successors each, some items without any."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 9, n_items)
    rows = np.concatenate([rng.permutation(n_items)[:size] for size in sizes])
    prior = rng.uniform(0.1, 1.0, n_items)
    return ItemSuccessors(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        rows.astype(np.int32),
        rng.uniform(0.01, 0.3, len(rows)).astype(np.float32),
        (prior / prior.sum()).astype(np.float32),
    )


def expected_chance(table: ItemSuccessors, history: list[int], candidate: int) -> float:
    """The definition, written out for one candidate."""
    newest = list(dict.fromkeys(row for row in history[::-1][: 2 * REACH] if row >= 0))[:REACH]
    chance = 0.0
    for distance, item in enumerate(newest, start=1):
        for entry in range(int(table.offsets[item]), int(table.offsets[item + 1])):
            if table.rows[entry] == candidate:
                chance += float(table.shares[entry]) / distance
    chance /= sum(1 / distance for distance in range(1, REACH + 1))
    return math.log(chance + 0.2 * float(table.prior[candidate]))


@given(
    histories=st.lists(
        st.lists(st.integers(-1, N_ITEMS - 1), min_size=25, max_size=25), min_size=1, max_size=4
    ),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_chances_are_a_mixture_of_what_followed_the_newest_different_items(
    histories: list[list[int]], seed: int
) -> None:
    """Against the definition, with padding anywhere, repeats and neighbours in the batch."""
    table = a_table(seed)
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(N_ITEMS)[:12] for _ in histories]).astype(np.int32)
    rows[:, 5] = -1
    found = table.log_chances(np.array(histories, np.int32), rows)
    for request, history in enumerate(histories):
        for column, candidate in enumerate(rows[request].tolist()):
            if candidate >= 0:
                expected = expected_chance(table, history, candidate)
                assert found[request, column] == pytest.approx(expected, rel=1e-4)
    assert np.isfinite(found).all()


def test_a_candidate_that_is_there_twice_has_its_chance_twice() -> None:
    """The joint training draws rows anew: the true item must not lose its chance to a copy."""
    table = a_table()
    rows = np.array([[3, 7, 3, -1, 9, 7, 3]], np.int32)
    history = np.arange(6, dtype=np.int32)[None]
    found = table.log_chances(history, rows)[0]
    once = table.log_chances(history, np.array([[3, 7, 9]], np.int32))[0]
    np.testing.assert_array_equal(found[[0, 1, 2, 4, 5, 6]], once[[0, 1, 0, 2, 1, 0]])


def test_a_user_without_a_history_gets_the_prior() -> None:
    """Nothing was followed, so only how often items follow at all counts."""
    table = a_table()
    rows = np.arange(N_ITEMS, dtype=np.int32)[None]
    found = table.log_chances(np.full((1, 8), -1, np.int32), rows)[0]
    np.testing.assert_allclose(found, np.log(0.2 * table.prior), rtol=1e-5)


def test_a_table_in_another_order_says_the_same_of_the_same_items() -> None:
    """Items get other rows, some are unknown here and some of here are gone."""
    table, rng = a_table(), np.random.default_rng(4)
    kept = rng.permutation(N_ITEMS)[:20]
    own_rows = np.concatenate([kept, [-1, -1]])
    moved = table.in_order(own_rows)
    assert moved.n_items == len(own_rows)
    history, candidates = np.arange(6), np.arange(6, 20)
    whole = table.log_chances(
        kept[history][None].astype(np.int32), kept[candidates][None].astype(np.int32)
    )
    again = moved.log_chances(
        history[None].astype(np.int32), np.append(candidates, 21)[None].astype(np.int32)
    )
    np.testing.assert_allclose(again[:, :-1], whole, rtol=1e-5)
    assert again[0, -1] == pytest.approx(math.log(0.2 * float(table.prior.min())), rel=1e-5)


def test_the_arrays_are_the_table() -> None:
    """What is written is what is read."""
    table = a_table()
    read = ItemSuccessors.of_arrays(table.arrays(), N_ITEMS)
    for name, array in table.arrays().items():
        np.testing.assert_array_equal(read.arrays()[name], array)


@pytest.mark.parametrize("damage", ["missing", "short", "row", "offsets", "items"])
def test_arrays_that_do_not_fit_are_refused(damage: str) -> None:
    """A broken file must not answer with another item's successors."""
    arrays = dict(a_table().arrays())
    if damage == "missing":
        del arrays["prior"]
    elif damage == "short":
        arrays["shares"] = arrays["shares"][:-1]
    elif damage == "row":
        arrays["rows"] = np.where(np.arange(len(arrays["rows"])) == 3, N_ITEMS, arrays["rows"])
    elif damage == "offsets":
        arrays["offsets"] = arrays["offsets"][::-1]
    with pytest.raises(ValueError, match="successors"):
        ItemSuccessors.of_arrays(arrays, N_ITEMS + (damage == "items"))
