"""Counting what follows what: equal to counting one pair after the other, and bounded."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from recsys.item_successors import REACH
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.ranking import count_successors as counting
from train_app.learning.ranking.count_successors import count_successors


def some_log(seed: int = 0, n_users: int = 25, n_items: int = 40) -> Interactions:
    """Users with repeats, dismissals and histories from one event on."""
    rng = np.random.default_rng(seed)
    users, items, kinds, times = [], [], [], []
    for user in range(n_users):
        for place in range(int(rng.integers(1, 30))):
            users.append(f"u{user}")
            items.append(f"i{rng.integers(n_items)}")
            kinds.append("dismiss" if rng.random() < 0.2 else "view")
            times.append(place * 1_000)
    return interactions_from_columns(users, items, kinds, times)


def counted(log: Interactions, is_free: np.ndarray) -> dict[tuple[int, int], float]:
    """Every pair of a user's new items, one after the other."""
    dismissal = log.kinds.index("dismiss")
    sums: dict[tuple[int, int], float] = defaultdict(float)
    for user in range(log.n_users):
        met: set[int] = set()
        path = []
        for event in range(int(log.offsets[user]), int(log.offsets[user + 1])):
            row = int(log.rows[event])
            is_new = row not in met
            met.add(row)
            if is_new and is_free[event] and log.kind_ids[event] != dismissal:
                path.append(row)
        for place, later in enumerate(path):
            for distance in range(1, min(place, REACH) + 1):
                sums[path[place - distance], later] += 1 / distance
    return sums


@pytest.mark.parametrize("pairs_at_once", [10, 4_000_000])
def test_shares_are_those_of_counting_every_pair(
    monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    """However many items are counted at a time."""
    monkeypatch.setattr(counting, "_PAIRS_AT_ONCE", pairs_at_once)
    log = some_log()
    is_free = np.random.default_rng(1).random(len(log)) < 0.9
    table = count_successors(log, is_free, ("dismiss",))
    sums = counted(log, is_free)
    totals = np.zeros(log.n_items)
    followed = np.ones(log.n_items)
    for (one, other), weight in sums.items():
        totals[one] += weight
        followed[other] += weight
    found = {
        (one, int(table.rows[entry])): float(table.shares[entry])
        for one in range(log.n_items)
        for entry in range(int(table.offsets[one]), int(table.offsets[one + 1]))
    }
    assert found.keys() == sums.keys()
    for (one, other), share in found.items():
        assert share == pytest.approx(sums[one, other] / totals[one], rel=1e-5)
    np.testing.assert_allclose(table.prior, followed / followed.sum(), rtol=1e-5)


def test_only_the_likeliest_successors_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is bounded; what is kept is not rescaled."""
    log = some_log(n_users=60)
    is_free = np.ones(len(log), np.bool_)
    whole = count_successors(log, is_free, ())
    monkeypatch.setattr(counting, "_MOST_PER_ITEM", 3)
    monkeypatch.setattr(counting, "_LEAST_PER_ITEM", 1)
    short = count_successors(log, is_free, ())
    assert np.diff(short.offsets).max() == 3
    for item in range(log.n_items):
        all_of_it = whole.shares[whole.offsets[item] : whole.offsets[item + 1]]
        kept = short.shares[short.offsets[item] : short.offsets[item + 1]]
        np.testing.assert_allclose(kept, np.sort(all_of_it)[::-1][:3], rtol=1e-6)


@pytest.mark.parametrize("n_events", [0, 1])
def test_a_log_without_pairs_makes_an_empty_table(n_events: int) -> None:
    """One event each: nothing follows anything, and chances are still finite."""
    log = interactions_from_columns(
        ["u"] * n_events, ["a"] * n_events, ["view"] * n_events, [1] * n_events
    )
    table = count_successors(log, np.ones(n_events, np.bool_), ())
    assert len(table.rows) == 0
    chances = table.log_chances(np.full((1, 4), -1, np.int32), np.zeros((1, n_events), np.int32))
    assert np.isfinite(chances).all()
