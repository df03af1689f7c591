"""The popular and the trending list, from window counts of all partitions kept in memory.

Pure but for its own memory: what it holds is what the store held at `offsets`. Knows no store.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from recsys.feature_definitions import (
    TREND_LONG_S,
    TREND_SHORT_S,
    bucket_of,
    first_bucket,
    trend_score,
)
from recsys.stores.features.feature_update import (
    FeatureUpdate,
    ItemBucket,
    ItemCount,
    PartitionWindows,
)


@dataclass(frozen=True, slots=True)
class ListRules:
    """The settings the lists depend on."""

    popular_window_s: int
    popular_limit: int
    trending_limit: int

    @property
    def windows_s(self) -> tuple[int, ...]:
        """The windows the lists are made of."""
        return tuple(sorted({self.popular_window_s, TREND_SHORT_S, TREND_LONG_S}))


class WindowTotals:
    """How often each item was engaged with in the windows that end at `now_ms`."""

    def __init__(self, rules: ListRules, parts: Mapping[int, PartitionWindows]) -> None:
        self.offsets = {partition: part.offset for partition, part in parts.items()}
        """How far into each partition the counts go."""
        self.now_ms = 0
        """The newest event time of all partitions: what the windows end at."""
        self._rules = rules
        self._windows = {window_s: _Window(window_s) for window_s in rules.windows_s}
        for part in parts.values():
            self._add(part.item_counts, part.watermark_ms)

    def advance(self, update: FeatureUpdate) -> None:
        """Take in an update that has been stored, made of what stood at `offsets`."""
        self.offsets[update.partition] = update.next_offset
        self._add(update.item_counts, update.watermark_ms)

    def popular(self) -> list[tuple[str, float]]:
        """The items with the highest counts in the popular window; equal counts by item id."""
        totals = self._windows[self._rules.popular_window_s].totals
        top = heapq.nsmallest(self._rules.popular_limit, totals.items(), key=_highest_first)
        return [(item_id, float(n)) for item_id, n in top]

    def trending(self) -> list[tuple[str, float]]:
        """The items with the highest trend scores, above expectation only; equal ones by id."""
        long = self._windows[TREND_LONG_S].totals
        scored = (
            (item_id, trend_score(n, long.get(item_id, n)))
            for item_id, n in self._windows[TREND_SHORT_S].totals.items()
        )
        rising = (entry for entry in scored if entry[1] > 0)
        return heapq.nsmallest(self._rules.trending_limit, rising, key=_highest_first)

    def _add(self, counts: Mapping[ItemBucket, ItemCount], watermark_ms: int) -> None:
        self.now_ms = max(self.now_ms, watermark_ms)
        for (window_s, bucket_ms, item_id), (n_positive, _) in counts.items():
            if window_s in self._windows and n_positive:
                self._windows[window_s].add(bucket_ms, item_id, n_positive)
        for window in self._windows.values():
            window.move_to(self.now_ms)


class _Window:
    """The buckets of one window, and their sum by item over those inside it."""

    def __init__(self, window_s: int) -> None:
        self.totals: Counter[str] = Counter()
        self._window_s = window_s
        self._buckets: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._first_ms = self._last_ms = -1

    def add(self, bucket_ms: int, item_id: str, n: int) -> None:
        self._buckets[bucket_ms][item_id] += n
        if self._first_ms <= bucket_ms <= self._last_ms:
            self.totals[item_id] += n

    def move_to(self, now_ms: int) -> None:
        """Let the buckets in that begin by now, and drop those that are over."""
        last_ms = bucket_of(now_ms, self._window_s)
        if last_ms == self._last_ms:
            return
        first_ms = first_bucket(now_ms, self._window_s)
        for bucket_ms, counts in self._buckets.items():
            if self._last_ms < bucket_ms <= last_ms and bucket_ms >= first_ms:
                self.totals.update(counts)
        for bucket_ms in [start for start in self._buckets if start < first_ms]:
            gone = self._buckets.pop(bucket_ms)
            if bucket_ms >= self._first_ms and bucket_ms <= self._last_ms:
                self._subtract(gone)
        self._first_ms, self._last_ms = first_ms, last_ms

    def _subtract(self, counts: Counter[str]) -> None:
        for item_id, n in counts.items():
            self.totals[item_id] -= n
            if not self.totals[item_id]:
                del self.totals[item_id]


def _highest_first(entry: tuple[str, float]) -> tuple[float, str]:
    return -entry[1], entry[0]
