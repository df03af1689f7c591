"""Items that went together up to a past moment: the stream's pairs and neighbours over columns.

The definitions are those of `recsys.feature_definitions`, written for arrays; a test holds both to
the same answers. Legend: M engagements, H partners of one, N items. What is made of pairs
is made a block of items at a time, because pairs are several times the engagements.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recsys.data_settings import FeatureSettings
from recsys.feature_definitions import MS_PER_DAY, NEIGHBOUR_SHRINKAGE, day_of
from recsys.neighbour_candidates import NeighbourTable
from recsys.types import NO_ROW, RowArray
from train_app.examples.interactions import Interactions

_NAME_BITS = 0xFFFF_FFFF
_EVENTS_AT_ONCE = 500_000
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class PastPairs:
    """All pairs of a log; items are places in the order of their ids, which decides ties."""

    items: RowArray  # [M] of the positive engagements, in order of time
    partners: RowArray  # [M, H] what each is a pair with, -1 for padding
    timestamps_ms: NDArray[np.int64]  # [M], ascending
    row_of_place: RowArray  # [N]
    pair_days: int

    def neighbours(self, moment_ms: int, n_kept: int) -> NeighbourTable:
        """The neighbours of every item as of a moment, of the pairs before it, in the log's rows.

        As the stream ranks them once it has read all events before the moment.
        """
        n_items = len(self.row_of_place)
        since_ms = (day_of(moment_ms) - self.pair_days + 1) * MS_PER_DAY
        begin, end = np.searchsorted(self.timestamps_ms, (since_ms, moment_ms)).tolist()
        items, partners = self.items[begin:end], self.partners[begin:end]
        degrees = _degrees(items, partners, n_items)
        table = NeighbourTable.empty(n_items, n_kept)
        for low, high in _blocks(degrees):
            one, other, n_pairs = _counted(_keys(items, partners, low, high, n_items), n_items)
            cosines = n_pairs / np.sqrt(degrees[one] * degrees[other])
            scores = cosines * n_pairs / (n_pairs + NEIGHBOUR_SHRINKAGE)
            order = np.argsort(_falling(one, scores), kind="stable")
            one, other, scores = one[order], other[order], scores[order]
            ranks = np.arange(len(one)) - np.searchsorted(one, one)
            is_kept = ranks < n_kept
            at = (self.row_of_place[one[is_kept]], ranks[is_kept])
            table.rows[at] = self.row_of_place[other[is_kept]]
            table.scores[at] = scores[is_kept]
        return table


def past_pairs(
    log: Interactions, negative_kinds: Collection[str], settings: FeatureSettings
) -> PastPairs:
    """The pairs that the feature stream would have counted, reading the log in order of time."""
    row_of_place = np.argsort(np.asarray([item.item_id for item in log.items], dtype=object))
    place_of_row = np.empty(log.n_items, np.int32)
    place_of_row[row_of_place] = np.arange(log.n_items, dtype=np.int32)
    is_positive = ~np.isin(log.kind_ids, _ids_of(log, negative_kinds))
    items, times = place_of_row[log.rows[is_positive]], log.timestamps_ms[is_positive]
    users = log.user_of_event()[is_positive]
    partners = np.full((len(items), settings.pair_history), NO_ROW, np.int32)
    bounds = np.unique(np.searchsorted(users, users[::_EVENTS_AT_ONCE])).tolist()
    for begin, end in pairwise([*bounds, len(users)]):
        part = slice(begin, end)  # of whole users
        partners[part] = _partners(items[part], users[part], times[part], settings)
    del users
    order = np.argsort(times, kind="stable")
    return PastPairs(
        items[order],
        partners[order],
        times[order],
        row_of_place.astype(np.int32),
        settings.pair_days,
    )


def _ids_of(log: Interactions, kinds: Collection[str]) -> NDArray[np.uint8]:
    return np.asarray([place for place, kind in enumerate(log.kinds) if kind in kinds], np.uint8)


def _partners(
    items: RowArray,
    users: NDArray[np.int64],
    times: NDArray[np.int64],
    settings: FeatureSettings,
) -> RowArray:
    """Each event's partners [M, pair_history], each once: see `paired_items`; -1 for padding."""
    partners = np.full((len(items), settings.pair_history), NO_ROW, np.int32)
    n_found = np.zeros(len(items), np.int64)
    oldest = _oldest_in_window(users, times, settings.pair_window_s * 1000)
    events = np.arange(len(items)) if settings.pair_history else np.empty(0, np.int64)
    lag = 0
    while len(events):
        lag += 1
        events = events[events - lag >= oldest[events]]
        found = items[events - lag]
        is_other = found != items[events]
        own, found = events[is_other], found[is_other]
        is_new = ~(partners[own] == found[:, None]).any(axis=1)
        partners[own[is_new], n_found[own[is_new]]] = found[is_new]
        n_found[own] += 1
        events = events[n_found[events] < settings.pair_history]
    return partners


def _oldest_in_window(
    users: NDArray[np.int64], times: NDArray[np.int64], window_ms: int
) -> NDArray[np.int64]:
    """The first event of the same user that is at most so much older, [M]."""
    # One axis for all: between users, and across longer pauses, just more than a window.
    steps = np.minimum(np.diff(times, prepend=times[:1]), window_ms + 1)
    steps[np.diff(users, prepend=users[:1]) != 0] = window_ms + 1
    axis = np.cumsum(steps)
    return np.asarray(np.searchsorted(axis, axis - window_ms), np.int64)


def _degrees(items: RowArray, partners: RowArray, n_items: int) -> NDArray[np.int64]:
    """In how many pairs each item is, [N]."""
    degrees = np.zeros(n_items, np.int64)
    for column in partners.T:
        is_pair = column != NO_ROW
        degrees += np.bincount(items[is_pair], minlength=n_items)
        degrees += np.bincount(column[is_pair], minlength=n_items)
    return degrees


def _blocks(degrees: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of items of about `_PAIRS_AT_ONCE` pairs each, so that memory stays bounded."""
    before = np.cumsum(degrees) - degrees
    bounds = np.flatnonzero(np.diff(before // _PAIRS_AT_ONCE, prepend=-1)).tolist()
    return list(pairwise([*bounds, len(degrees)]))


def _keys(
    items: RowArray, partners: RowArray, low: int, high: int, n_items: int
) -> NDArray[np.int64]:
    """Every pair seen from its items in [low, high), as that item x N + the other; in order."""
    parts = [np.empty(0, np.int64)]
    is_within = (items >= low) & (items < high)
    for column in partners.T:
        for chosen, one, other in (
            (is_within & (column != NO_ROW), items, column),
            ((column >= low) & (column < high), column, items),
        ):
            parts.append(one[chosen].astype(np.int64) * n_items + other[chosen])
    keys = np.concatenate(parts)
    keys.sort()
    return keys


def _counted(
    keys: NDArray[np.int64], n_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Both items of every distinct key and how often it is there, in order of both items."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    distinct = keys[starts]
    return distinct // n_items, distinct % n_items, np.diff(starts, append=len(keys))


def _falling(one: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Keys that order by item, then by falling score in single precision."""
    bits = scores.astype(np.float32).view(np.uint32)  # of positive floats, they order alike
    return np.asarray(
        (one.astype(np.uint64) << np.uint64(32)) | (np.uint32(_NAME_BITS) - bits), np.uint64
    )
