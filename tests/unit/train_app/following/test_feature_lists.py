"""Popular and trending lists: kept up to date step by step as if counted anew."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.feature_definitions import bucket_of, first_bucket
from recsys.stores.features.feature_update import (
    FeatureUpdate,
    ItemBucket,
    ItemCount,
    PartitionWindows,
)
from tests.feature_events import NOW_MS
from train_app.following.features.feature_lists import ListRules, WindowTotals

RULES = ListRules(popular_window_s=86_400, popular_limit=3, trending_limit=3)
HOUR_MS = 3_600_000


def an_update(
    partition: int, offset: int, counts: dict[str, int], at_ms: int = NOW_MS, watermark_ms: int = 0
) -> FeatureUpdate:
    """So many engagements of each item at a time."""
    buckets: dict[ItemBucket, ItemCount] = {
        (window_s, bucket_of(at_ms, window_s), item_id): (n, 1)
        for window_s in (300, *RULES.windows_s)
        for item_id, n in counts.items()
    }
    return FeatureUpdate(partition, offset, watermark_ms or at_ms, item_counts=buckets)


def totals(*updates: FeatureUpdate) -> WindowTotals:
    """The totals after these, from nothing."""
    found = WindowTotals(RULES, {0: PartitionWindows(None), 1: PartitionWindows(None)})
    for update in updates:
        found.advance(update)
    return found


def test_equally_popular_items_come_in_order_of_their_ids() -> None:
    """The list is the same after every restart, and cut at the limit."""
    found = totals(an_update(0, 1, {"b": 1, "a": 1, "d": 1}), an_update(1, 1, {"c": 2}))
    assert found.popular() == [("c", 2.0), ("a", 1.0), ("b", 1.0)]


def test_the_window_ends_at_the_newest_event_of_any_partition() -> None:
    """What one silent partition counted long ago does not stay popular."""
    found = totals(an_update(0, 1, {"old": 9}), an_update(1, 1, {"new": 1}, NOW_MS + 30 * HOUR_MS))
    assert found.popular() == [("new", 1.0)]


def test_a_bucket_dated_ahead_counts_when_its_time_has_come() -> None:
    """An event of a fast clock waits in its bucket."""
    ahead = an_update(0, 1, {"early": 1}, NOW_MS + HOUR_MS, watermark_ms=NOW_MS)
    found = totals(ahead)
    assert found.trending() == []
    found.advance(an_update(1, 1, {"x": 4}, NOW_MS + HOUR_MS))
    assert dict(found.popular()) == {"x": 4.0, "early": 1.0}


def test_only_what_rises_is_trending() -> None:
    """A steady favourite is popular and no trend; a newcomer is one; a single click is none."""
    steady = [an_update(0, n, {"steady": 50}, NOW_MS + n * HOUR_MS) for n in range(24)]
    found = totals(*steady, an_update(1, 1, {"rising": 20, "single": 1}, NOW_MS + 23 * HOUR_MS))
    assert [item_id for item_id, _ in found.trending()] == ["rising"]
    assert found.popular()[0][0] == "steady"


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_totals_kept_step_by_step_equal_those_made_anew(seed: int) -> None:
    """Late counts, jumps of time and partitions apart leave no remainder."""
    rng = random.Random(seed)
    kept = totals()
    stored: dict[int, dict[ItemBucket, ItemCount]] = {0: {}, 1: {}}
    marks = {0: 0, 1: 0}
    for offset in range(1, rng.randrange(2, 30)):
        partition = rng.randrange(2)
        at_ms = NOW_MS + rng.choice([0, HOUR_MS // 3, 7 * HOUR_MS, 40 * HOUR_MS]) * rng.randrange(3)
        marks[partition] = max(marks[partition], at_ms - rng.choice([0, HOUR_MS]))
        counts = {rng.choice("abcd"): rng.randrange(1, 4)}
        update = an_update(partition, offset, counts, at_ms, marks[partition])
        kept.advance(update)
        for key, (n, m) in update.item_counts.items():
            before = stored[partition].get(key, (0, 0))
            stored[partition][key] = (before[0] + n, before[1] + m)
    parts = {p: PartitionWindows(1, marks[p], stored[p]) for p in stored}
    anew = WindowTotals(RULES, parts)
    assert (kept.popular(), kept.trending()) == (anew.popular(), anew.trending())
    for window_s in RULES.windows_s:
        first = first_bucket(kept.now_ms, window_s)
        last = bucket_of(kept.now_ms, window_s)
        inside = sum(
            n
            for counts in stored.values()
            for (w, bucket_ms, _), (n, _) in counts.items()
            if w == window_s and first <= bucket_ms <= last
        )
        if window_s == RULES.popular_window_s:
            limited = ListRules(window_s, 99, 99)
            assert sum(n for _, n in WindowTotals(limited, parts).popular()) == inside
