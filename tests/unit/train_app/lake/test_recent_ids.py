"""Ids of the recent past: none that is remembered is missed, and memory stays bounded."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train_app.lake.archiving.recent_ids import RecentIds, id_hashes, repeated_in

HOUR_MS = 3_600_000


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.text(min_size=1, max_size=8), max_size=20), max_size=20))
def test_whatever_was_remembered_is_suspected(stretches: list[list[str]]) -> None:
    """However the ids were cut into stretches, and none else is but by chance."""
    recent = RecentIds(window_ms=HOUR_MS)
    for stretch in stretches:
        recent.remember(3, id_hashes(stretch), 1)
    known = sorted({event_id for stretch in stretches for event_id in stretch})
    assert recent.suspects(3, id_hashes(known)).all()
    assert not recent.suspects(3, id_hashes([f"other {n}" for n in range(50)])).any()
    assert not recent.suspects(4, id_hashes(known)).any()


def test_an_id_is_let_go_after_the_window_of_its_partition() -> None:
    """Time is that of the partition's own records."""
    recent = RecentIds(window_ms=HOUR_MS)
    recent.remember(0, id_hashes([f"a{n}" for n in range(100)]), 0)
    recent.remember(1, id_hashes(["b"]), 0)
    recent.remember(0, id_hashes(["c"]), HOUR_MS + 1)
    assert not recent.suspects(0, id_hashes(["a1"])).any()
    assert recent.suspects(0, id_hashes(["c"])).all()
    assert recent.suspects(1, id_hashes(["b"])).all()


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    """Past the limit whole stretches are let go."""
    recent = RecentIds(window_ms=HOUR_MS, max_ids=1_000)
    for n in range(100):
        recent.remember(0, id_hashes([f"{n}-{i}" for i in range(50 if n % 2 else 99)]), n)
    assert len(recent) <= 1_000
    assert recent.suspects(0, id_hashes(["99-1"])).all()
    assert not recent.suspects(0, id_hashes(["0-1"])).any()


def test_many_small_stretches_become_few_large_ones() -> None:
    """A look-up does not get slower with every commit."""
    recent = RecentIds(window_ms=HOUR_MS)
    for n in range(1_000):
        recent.remember(0, id_hashes([f"{n}-{i}" for i in range(10)]), 1)
    assert len(recent._partitions[0].segments) < 20
    assert len(recent) == 10_000


def test_a_repeat_is_the_one_that_comes_later() -> None:
    """The first of equal ones is none."""
    assert repeated_in(np.array([5, 3, 5, 5, 3], np.uint64)).tolist() == [
        False, False, True, True, True,
    ]  # fmt: skip
