"""What windows, trends, pairs and neighbours mean; columns count as the live store does."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.feature_columns import item_counts_as_of, late_events, user_counts_as_of
from recsys.feature_definitions import (
    BUCKETS_PER_WINDOW,
    NO_COUNTS,
    WINDOWS_S,
    advanced_watermark,
    best_neighbours,
    bucket_of,
    bucket_width_ms,
    first_bucket,
    is_late,
    neighbour_score,
    paired_items,
    summed_counts,
    trend_score,
    user_window_counts,
)
from recsys.types import HistoryEvent

NOW_MS = 1_790_000_000_000
NEGATIVE = frozenset({"dismiss"})


@given(now_ms=st.integers(10**11, 4 * 10**12), window_s=st.sampled_from([*WINDOWS_S, 7, 1001]))
def test_a_window_is_the_twelve_buckets_that_end_with_now(now_ms: int, window_s: int) -> None:
    """At least eleven twelfths of its length, at most all of it."""
    width_ms = bucket_width_ms(window_s)
    first, last = first_bucket(now_ms, window_s), bucket_of(now_ms, window_s)
    assert (last - first) // width_ms + 1 == BUCKETS_PER_WINDOW
    assert last <= now_ms < last + width_ms
    covered_ms = now_ms - first
    assert (BUCKETS_PER_WINDOW - 1) * width_ms <= covered_ms < BUCKETS_PER_WINDOW * width_ms


def test_counts_are_the_sum_of_the_buckets_inside() -> None:
    """A bucket before the window or after now does not count."""
    width_ms = bucket_width_ms(300)
    last = bucket_of(NOW_MS, 300)
    buckets = [
        (300, last - 12 * width_ms, 100, 100),
        (300, last - 11 * width_ms, 1, 10),
        (300, last, 2, 20),
        (300, last + width_ms, 1000, 1000),
        (3600, bucket_of(NOW_MS, 3600), 4, 40),
        (777, bucket_of(NOW_MS, 777), 9, 9),
    ]
    counts = summed_counts(buckets, NOW_MS)
    assert (counts.positives, counts.negatives) == ((3, 4, 0), (30, 40, 0))
    assert summed_counts([], NOW_MS) == NO_COUNTS


def test_one_fast_clock_makes_nobody_late() -> None:
    """A time ahead of the receiver's is no progress; late is older than the bound."""
    watermark_ms = advanced_watermark(NOW_MS, NOW_MS + 3_600_000, NOW_MS + 5)
    assert watermark_ms == NOW_MS + 5
    assert not is_late(NOW_MS - 1000, NOW_MS, 1000)
    assert is_late(NOW_MS - 1001, NOW_MS, 1000)


@pytest.mark.parametrize(
    ("n_short", "n_long", "expected"), [(0, 0, -1.0), (1, 1, 0.0), (4, 4, 3.0), (12, 81, 4.0)]
)
def test_a_trend_is_what_the_day_does_not_explain(
    n_short: int, n_long: int, expected: float
) -> None:
    """One click is no trend, and three an hour all day are none either."""
    assert trend_score(n_short, n_long) == pytest.approx(expected)


@given(n=st.integers(0, 500), rest=st.integers(0, 10_000))
def test_a_trend_grows_with_the_hour_and_falls_with_the_day(n: int, rest: int) -> None:
    """The order of the list is never upside down."""
    assert trend_score(n + 1, n + 1 + rest) > trend_score(n, n + rest)
    assert trend_score(n + 1, n + 1 + rest) > trend_score(n + 1, n + 2 + rest)


def test_an_engagement_pairs_with_the_last_ones_of_other_items() -> None:
    """Not with itself, what was disliked, what is too old, or beyond the limit."""
    before = [
        HistoryEvent("c", "click", NOW_MS - 10),
        HistoryEvent("own", "click", NOW_MS - 20),
        HistoryEvent("bad", "dismiss", NOW_MS - 30),
        HistoryEvent("b", "click", NOW_MS - 40),
        HistoryEvent("c", "view", NOW_MS - 50),
        HistoryEvent("a", "click", NOW_MS - 60),
        HistoryEvent("old", "click", NOW_MS - 5000),
    ]
    assert paired_items(before, "own", NOW_MS, NEGATIVE, 9, 1000) == ["c", "b", "a"]
    assert paired_items(before, "own", NOW_MS, NEGATIVE, 3, 1000) == ["c", "b"]
    assert paired_items(before, "own", NOW_MS, NEGATIVE, 0, 1000) == []


@given(n=st.integers(1, 99), more=st.integers(0, 99), other=st.integers(0, 99))
def test_a_neighbour_score_is_a_shrunk_cosine(n: int, more: int, other: int) -> None:
    """Between 0 and 1, symmetric, and higher for the same share of more pairs."""
    score = neighbour_score(n, n + more, n + other)
    assert 0 < score < 1
    assert score == neighbour_score(n, n + other, n + more)
    assert neighbour_score(2 * n, 2 * (n + more), 2 * (n + other)) > score


def test_neighbours_come_best_first_and_ties_by_id() -> None:
    """A partner of everybody stands behind one that goes with this item."""
    pairs, degrees = {"hit": 5, "b": 4, "a": 4}, {"hit": 500, "a": 6, "b": 6}
    found = best_neighbours(pairs, 13, degrees, 5)
    assert [item_id for item_id, _ in found] == ["a", "b", "hit"]
    assert best_neighbours(pairs, 13, degrees, 1) == found[:1]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), n_events=st.integers(0, 120), limit=st.integers(1, 30))
def test_columns_count_what_a_reader_was_told(seed: int, n_events: int, limit: int) -> None:
    """For items by buckets and for users by history, at any time, exactly."""
    rng = random.Random(seed)
    times = sorted(
        NOW_MS + rng.choice([1, 1000, 50_000]) * rng.randrange(2000) for _ in range(n_events)
    )
    names = [rng.choice("abc") for _ in times]
    kinds = [rng.choice(["click", "dismiss"]) for _ in times]
    asked = [rng.choice("abcd") for _ in range(30)]
    at = [rng.choice([*times, NOW_MS + rng.randrange(10**8)]) for _ in asked]
    columns = (
        np.array(names, dtype=object).astype(str),
        np.array(times, dtype=np.int64),
        np.array([kind in NEGATIVE for kind in kinds], dtype=np.bool_),
        np.array(asked).astype(str),
        np.array(at, dtype=np.int64),
    )
    items, users = item_counts_as_of(*columns), user_counts_as_of(*columns, limit)
    for i, (name, now_ms) in enumerate(zip(asked, at, strict=True)):
        mine = [
            HistoryEvent(name, kind, t)
            for n, kind, t in zip(names, kinds, times, strict=True)
            if n == name and t < now_ms
        ]
        buckets = [
            (w, bucket_of(e.timestamp_ms, w), e.kind not in NEGATIVE, e.kind in NEGATIVE)
            for w in WINDOWS_S
            for e in mine
        ]
        online = summed_counts(buckets, now_ms)
        assert tuple(items.positives[i]) == online.positives
        assert tuple(items.negatives[i]) == online.negatives
        told = user_window_counts(mine[-limit:], now_ms, NEGATIVE)
        assert tuple(users.positives[i]) == told.positives
        assert tuple(users.negatives[i]) == told.negatives


def test_late_events_are_told_by_partition_and_arrival() -> None:
    """Only what arrived before, in the same partition, makes an event late."""
    partitions = np.array([0, 1, 0, 0, 1])
    times = np.array([5000, 9000, 3999, 4000, 3000], dtype=np.int64)
    received = np.array([5000, 4100, 5000, 5000, 5000], dtype=np.int64)
    assert late_events(partitions, times, received, 1000).tolist() == [
        False, False, True, False, True,
    ]  # fmt: skip
