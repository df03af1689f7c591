"""The live window counts over columns: what a reader at a past time would have been told.

The same definitions as `feature_definitions`, for training and checks: equal to the last count
where the log's order was the order of time. Knows no store, and no file format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.feature_definitions import BUCKETS_PER_WINDOW, WINDOWS_S, bucket_width_ms

Strings: TypeAlias = NDArray[Any]
Times: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class WindowColumns:
    """Counts of P points in W windows, those of `WINDOWS_S`."""

    positives: NDArray[np.int64]  # [P, W]
    negatives: NDArray[np.int64]  # [P, W]


def item_counts_as_of(
    item_ids: Strings,
    timestamps_ms: Times,
    is_negative: Flags,
    asked_ids: Strings,
    as_of_ms: Times,
) -> WindowColumns:
    """The window counts of an item at a time, of the events before it, for many such points.

    Args:
        item_ids: one entry per event, in any order; leave out those that `late_events` names.
        asked_ids: one entry per point.
        as_of_ms: one entry per point; an event at that very time does not count.
    """
    events = _Keyed(item_ids, timestamps_ms, is_negative, asked_ids)
    ends = events.places(as_of_ms)
    return events.counts([(events.places(start), ends) for start in _starts(as_of_ms)])


def user_counts_as_of(
    user_ids: Strings,
    timestamps_ms: Times,
    is_negative: Flags,
    asked_ids: Strings,
    as_of_ms: Times,
    history_limit: int,
) -> WindowColumns:
    """The same for users, of the newest `history_limit` events before each point."""
    events = _Keyed(user_ids, timestamps_ms, is_negative, asked_ids)
    ends = events.places(as_of_ms)
    kept = ends - history_limit
    return events.counts(
        [(np.maximum(events.places(start), kept), ends) for start in _starts(as_of_ms)]
    )


def late_events(
    partitions: NDArray[np.integer[Any]],
    timestamps_ms: Times,
    received_at_ms: Times,
    lateness_ms: int,
) -> Flags:
    """Which events came too late to change a window; all columns in the order of arrival."""
    is_late = np.zeros(len(timestamps_ms), dtype=np.bool_)
    for partition in np.unique(partitions):
        mine = np.flatnonzero(partitions == partition)
        progress = np.minimum(timestamps_ms[mine], received_at_ms[mine])
        watermarks = np.maximum.accumulate(np.concatenate([[0], progress]))[:-1]
        is_late[mine] = timestamps_ms[mine] < watermarks - lateness_ms
    return is_late


def _starts(as_of_ms: Times) -> list[Times]:
    """Where each window begins, by point."""
    starts = []
    for window_s in WINDOWS_S:
        width_ms = bucket_width_ms(window_s)
        starts.append(as_of_ms - as_of_ms % width_ms - (BUCKETS_PER_WINDOW - 1) * width_ms)
    return starts


class _Keyed:
    """Events sorted by key and time, so that a window of a key is a slice."""

    def __init__(
        self, keys: Strings, timestamps_ms: Times, is_negative: Flags, asked: Strings
    ) -> None:
        names, codes = np.unique(np.concatenate([keys, asked]), return_inverse=True)
        event_codes, self._asked = codes[: len(keys)], codes[len(keys) :]
        order = np.lexsort((timestamps_ms, event_codes))
        self._times = timestamps_ms[order]
        self._bounds = np.searchsorted(event_codes[order], np.arange(len(names) + 1))
        self._before = np.concatenate([[0], np.cumsum(is_negative[order], dtype=np.int64)])

    def places(self, times_ms: Times) -> NDArray[np.int64]:
        """By point: how many of the sorted events stand before its key's first one from a time."""
        low = self._bounds[self._asked].astype(np.int64)
        high = self._bounds[self._asked + 1].astype(np.int64)
        # All points search their own slice at once, halving it each round.
        while (is_open := low < high).any():
            middle = (low + high) // 2
            is_earlier = is_open & (self._times[np.minimum(middle, high - 1)] < times_ms)
            low = np.where(is_earlier, middle + 1, low)
            high = np.where(is_open & ~is_earlier, middle, high)
        return low

    def counts(self, slices: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> WindowColumns:
        """Positives and negatives of one slice per point and window."""
        floor = self._bounds[self._asked].astype(np.int64)
        positives, negatives = [], []
        for start, end in slices:
            first = np.maximum(start, floor)
            n_negative = self._before[end] - self._before[first]
            positives.append(end - first - n_negative)
            negatives.append(n_negative)
        return WindowColumns(np.stack(positives, axis=1), np.stack(negatives, axis=1))
