"""What a batch of log records makes of user histories, the popular window and the catalogue.

Pure: the same records in any split into batches give the same features. Knows no store.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from recsys.events import (
    MAX_FUTURE_MS,
    CatalogueChange,
    Engagement,
    Impression,
    Outcome,
    decode_event,
)
from recsys.stores.event_log import LogRecord
from recsys.stores.feature_tables import FeatureUpdate
from recsys.types import HistoryEvent, UserState

_BUCKETS_PER_WINDOW = 24
_MIN_BUCKET_MS = 1000
_timestamp_of = attrgetter("timestamp_ms")
_IGNORED_PREFIXES = (b'{"type":"impression"', b'{"type":"outcome"')
"""Served slates are most of the log and change no feature; they are not worth decoding."""


@dataclass(frozen=True, slots=True)
class DecodedRecords:
    """The part of a batch of records that features are made of, in log order per partition."""

    engagements: tuple[Engagement, ...]
    catalogue: tuple[CatalogueChange, ...]
    next_offsets: Mapping[int, int]
    bad: tuple[tuple[LogRecord, str], ...]
    """Records that are no event, with the reason."""

    @property
    def user_ids(self) -> list[str]:
        """The users whose history this batch touches."""
        return list(dict.fromkeys(event.user_id for event in self.engagements))


@dataclass(frozen=True, slots=True)
class FoldRules:
    """The settings the fold depends on."""

    history_limit: int
    window_ms: int
    negative_kinds: frozenset[str]

    @property
    def bucket_ms(self) -> int:
        """Width of the buckets the live window is counted in."""
        return max(_MIN_BUCKET_MS, self.window_ms // _BUCKETS_PER_WINDOW)

    def bucket_of(self, timestamp_ms: int) -> int:
        """The start of a time's bucket, in ms."""
        return timestamp_ms - timestamp_ms % self.bucket_ms

    def expired_before_ms(self, newest_ms: int) -> int:
        """Buckets that start before this lie wholly outside the window that ends at `newest_ms`."""
        return newest_ms - self.window_ms - self.bucket_ms + 1


def decode_records(records: Iterable[LogRecord]) -> DecodedRecords:
    """Read the records that matter; a record that is no event is set aside, never fatal."""
    engagements: list[Engagement] = []
    catalogue: list[CatalogueChange] = []
    next_offsets: dict[int, int] = {}
    bad: list[tuple[LogRecord, str]] = []
    for record in records:
        next_offsets[record.partition] = record.offset + 1
        if record.value.startswith(_IGNORED_PREFIXES):
            continue
        try:
            event = decode_event(record.value)
        except (ValueError, RecursionError) as error:
            bad.append((record, str(error)))
            continue
        match event:
            case Engagement() if event.timestamp_ms > event.received_at_ms + MAX_FUTURE_MS:
                bad.append((record, f"timestamp {event.timestamp_ms} lies in the future"))
            case Engagement():
                engagements.append(event)
            case CatalogueChange():
                catalogue.append(event)
            case Impression() | Outcome():
                pass
    return DecodedRecords(tuple(engagements), tuple(catalogue), next_offsets, tuple(bad))


def fold_events(
    decoded: DecodedRecords,
    states: Mapping[str, UserState],
    newest_ms: int,
    rules: FoldRules,
) -> FeatureUpdate:
    """The update that brings stored features from before these records to after them.

    Args:
        states: the stored states of `decoded.user_ids`; a missing user is new.
        newest_ms: the newest event time folded before.
    """
    by_user: dict[str, list[Engagement]] = defaultdict(list)
    counts: Counter[tuple[int, str]] = Counter()
    for event in decoded.engagements:
        by_user[event.user_id].append(event)
        newest_ms = max(newest_ms, event.timestamp_ms)
        if event.kind not in rules.negative_kinds:
            counts[rules.bucket_of(event.timestamp_ms), event.item_id] += 1
    expired_before_ms = rules.expired_before_ms(newest_ms)
    changed = (
        add_engagements(states.get(user_id) or UserState(user_id), events, rules.history_limit)
        for user_id, events in by_user.items()
    )
    return FeatureUpdate(
        states=tuple(state for state in changed if state is not states.get(state.user_id)),
        live_counts={key: n for key, n in counts.items() if key[0] >= expired_before_ms},
        expired_before_ms=expired_before_ms,
        newest_ms=newest_ms,
        catalogue=decoded.catalogue,
        next_offsets=decoded.next_offsets,
    )


def add_engagements(state: UserState, events: Iterable[Engagement], limit: int) -> UserState:
    """The state after these engagements: the newest `limit` by time, equal times by arrival.

    A late event takes its place in time; one older than a full history changes nothing.
    """
    history = list(state.history)
    version = state.version
    for event in events:
        at = bisect_right(history, event.timestamp_ms, key=_timestamp_of)
        if at == 0 and len(history) >= limit:
            continue
        history.insert(at, HistoryEvent(event.item_id, event.kind, event.timestamp_ms))
        version += 1
        del history[:-limit]
    if version == state.version:
        return state
    return UserState(state.user_id, tuple(history), version)


def merge_imported(
    state: UserState, imported: Sequence[HistoryEvent], limit: int
) -> tuple[UserState, list[HistoryEvent]]:
    """The state with imported events merged in, and those of them that are new in it.

    Equal events (item, kind and time) count once, and at equal times imported ones stand before
    stored ones: so importing the same again changes nothing.
    """
    stored = set(state.history)
    fresh = [event for event in dict.fromkeys(imported) if event not in stored]
    if not fresh:
        return state, []
    merged = sorted([*fresh, *state.history], key=_timestamp_of)[-limit:]
    added = [event for event in merged if event not in stored]
    if not added:
        return state, []
    return UserState(state.user_id, tuple(merged), state.version + len(added)), added


class PopularWindow:
    """The live counts in memory: what `live_counts` of the store holds, and its totals by item."""

    def __init__(self, counts: Iterable[tuple[int, str, int]] = ()) -> None:
        self._buckets: dict[int, Counter[str]] = {}
        self._totals: Counter[str] = Counter()
        for bucket_ms, item_id, n in counts:
            self._add(bucket_ms, item_id, n)

    def advance(self, update: FeatureUpdate) -> None:
        """Take in an update that has been stored."""
        for (bucket_ms, item_id), n in update.live_counts.items():
            self._add(bucket_ms, item_id, n)
        for bucket_ms in [start for start in self._buckets if start < update.expired_before_ms]:
            for item_id, n in self._buckets.pop(bucket_ms).items():
                self._totals[item_id] -= n
                if not self._totals[item_id]:
                    del self._totals[item_id]

    def top(self, limit: int) -> list[tuple[str, int]]:
        """The items with the highest counts; equal counts by item id."""
        return heapq.nsmallest(limit, self._totals.items(), key=lambda entry: (-entry[1], entry[0]))

    def _add(self, bucket_ms: int, item_id: str, n: int) -> None:
        self._buckets.setdefault(bucket_ms, Counter())[item_id] += n
        self._totals[item_id] += n
