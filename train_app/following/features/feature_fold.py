"""What a run of one partition's records makes of histories, windows, pairs and the catalogue.

Pure: the same records in any split into runs give the same features. Knows no store; what a window
or a pair is stands in `recsys.feature_definitions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from operator import attrgetter

from recsys.events import CatalogueChange, Engagement, Forgotten
from recsys.feature_definitions import (
    WINDOWS_S,
    advanced_watermark,
    bucket_of,
    bucket_width_ms,
    day_of,
    first_bucket,
    is_late,
    paired_items,
)
from recsys.history_columns import HistoryDraft
from recsys.settings import Settings
from recsys.stores.features.feature_update import (
    Expiry,
    FeatureUpdate,
    ItemBucket,
    ItemCount,
    MergedUsers,
    PairDay,
    StoredPart,
)
from recsys.types import HistoryEvent, UserState
from train_app.following.features.feature_records import DecodedPart

_timestamp_of = attrgetter("timestamp_ms")


@dataclass(frozen=True, slots=True)
class FoldRules:
    """The settings the fold depends on."""

    history_limit: int = 200
    negative_kinds: frozenset[str] = frozenset()
    windows_s: tuple[int, ...] = WINDOWS_S
    lateness_ms: int = 3_600_000
    pair_history: int = 5
    pair_window_ms: int = 86_400_000
    pair_days: int = 14
    dedup_window_ms: int = 0
    """How long an event id is remembered; 0 where the log never holds an id twice."""

    def expiry(self, watermark_ms: int, before_ms: int) -> Expiry:
        """What has expired at one watermark and had not at the watermark before it.

        Buckets stay for the lateness beyond their window: a clock that jumped ahead and came back
        then finds the counts of the true time.
        """
        bounds = {w: first_bucket(watermark_ms - self.lateness_ms, w) for w in self.windows_s}
        moved = {
            window_s: bound_ms
            for window_s, bound_ms in bounds.items()
            if bound_ms != first_bucket(before_ms - self.lateness_ms, window_s)
        }
        return Expiry(
            buckets_before_ms=moved,
            pairs_before_day=max(0, self.pairs_since_day(watermark_ms)),
            seen_before_ms=max(0, watermark_ms - self.dedup_window_ms),
        )

    def pairs_since_day(self, watermark_ms: int) -> int:
        """The oldest day whose pairs count."""
        return day_of(watermark_ms) - self.pair_days + 1


def fold_rules(settings: Settings, *, log_may_repeat: bool) -> FoldRules:
    """The settings that decide what events do to features.

    Args:
        log_may_repeat: whether the log can hold an event id more than once.
    """
    features, events = settings.features, settings.events
    return FoldRules(
        history_limit=features.history_limit,
        negative_kinds=frozenset(events.negative_kinds),
        windows_s=tuple(sorted({*WINDOWS_S, features.popular_window_s})),
        lateness_ms=features.lateness_s * 1000,
        pair_history=features.pair_history,
        pair_window_ms=features.pair_window_s * 1000,
        pair_days=features.pair_days,
        dedup_window_ms=events.dedup_window_s * 1000 if log_may_repeat else 0,
    )


def fold_part(decoded: DecodedPart, stored: StoredPart, rules: FoldRules) -> FeatureUpdate:
    """The update that brings stored features from before these records to after them.

    Args:
        stored: the stored states of `decoded.user_ids`, a missing user is new, and of the ids in
            `decoded.event_ids` those that are remembered.
    """
    fold = _Fold(stored, rules)
    for event in decoded.events:
        if fold.is_new(event.event_id):
            fold.take(event)
    return fold.update(decoded)


class _Fold:
    """The features on their way from one state to the next."""

    def __init__(self, stored: StoredPart, rules: FoldRules) -> None:
        self._stored = stored
        self._rules = rules
        self._watermark_ms = stored.watermark_ms
        self._users: dict[str, _History] = {}
        self._forgotten: dict[str, None] = {}
        self._slot_ms = gcd(*map(bucket_width_ms, rules.windows_s))
        """In a slot of time each window has one bucket: events are counted once, not per window."""
        self._positives: Counter[tuple[int, str]] = Counter()
        self._negatives: Counter[tuple[int, str]] = Counter()
        self._pairs: Counter[PairDay] = Counter()
        self._catalogue: list[CatalogueChange] = []
        self._seen: dict[str, int] = {}
        self._n_repeated = 0

    def is_new(self, event_id: str) -> bool:
        """Whether an event has to be counted; counts those that have not."""
        if not self._rules.dedup_window_ms:
            return True
        seen_ms = self._seen.get(event_id, self._stored.seen_ms.get(event_id))
        if seen_ms is None or seen_ms < self._watermark_ms - self._rules.dedup_window_ms:
            return True
        self._n_repeated += 1
        return False

    def take(self, event: Engagement | CatalogueChange | Forgotten) -> None:
        """Take in an event that was not counted before."""
        match event:
            case Engagement():
                self._engage(event)
            case CatalogueChange():
                self._catalogue.append(event)
            case Forgotten():
                self._users[event.user_id] = _History(UserState(event.user_id))
                self._forgotten[event.user_id] = None
        if self._rules.dedup_window_ms:
            self._seen[event.event_id] = self._watermark_ms

    def update(self, decoded: DecodedPart) -> FeatureUpdate:
        """Everything that changed."""
        expiry = self._rules.expiry(self._watermark_ms, self._stored.watermark_ms)
        return FeatureUpdate(
            partition=decoded.partition,
            next_offset=decoded.next_offset,
            watermark_ms=self._watermark_ms,
            forgotten=tuple(self._forgotten),
            states=tuple(history.state() for history in self._users.values() if history.n_added),
            item_counts=self._item_counts(),
            pair_counts={k: n for k, n in self._pairs.items() if k[0] >= expiry.pairs_before_day},
            catalogue=tuple(self._catalogue),
            seen={i: ms for i, ms in self._seen.items() if ms >= expiry.seen_before_ms},
            expiry=expiry,
            n_repeated=self._n_repeated,
        )

    def _engage(self, event: Engagement) -> None:
        history = self._users.get(event.user_id)
        if history is None:
            state = self._stored.states.get(event.user_id)
            history = self._users[event.user_id] = _History(state or UserState(event.user_id))
        place = history.draft.place_of(event.timestamp_ms)
        if not is_late(event.timestamp_ms, self._watermark_ms, self._rules.lateness_ms):
            self._count(event, history, place)
        history.insert(place, event, self._rules.history_limit)
        self._watermark_ms = advanced_watermark(
            self._watermark_ms, event.timestamp_ms, event.received_at_ms
        )

    def _count(self, event: Engagement, history: _History, place: int) -> None:
        is_negative = event.kind in self._rules.negative_kinds
        counts = self._negatives if is_negative else self._positives
        counts[event.timestamp_ms // self._slot_ms, event.item_id] += 1
        if not is_negative and self._rules.pair_history:
            self._count_pairs(event, history, place)

    def _item_counts(self) -> dict[ItemBucket, ItemCount]:
        """What to add to the windows' buckets, but those that have expired meanwhile."""
        buckets: dict[int, list[tuple[int, int]]] = {}
        added: dict[ItemBucket, ItemCount] = {}
        for slot, item_id in self._positives | self._negatives:
            if slot not in buckets:
                buckets[slot] = self._buckets(slot * self._slot_ms)
            n_positive = self._positives[slot, item_id]
            n_negative = self._negatives[slot, item_id]
            for bucket in buckets[slot]:
                n, m = added.get((*bucket, item_id), (0, 0))
                added[*bucket, item_id] = (n + n_positive, m + n_negative)
        return added

    def _buckets(self, time_ms: int) -> list[tuple[int, int]]:
        """Of each window the bucket a time lies in, where it counts still."""
        expired_ms = self._watermark_ms - self._rules.lateness_ms
        buckets = [(window_s, bucket_of(time_ms, window_s)) for window_s in self._rules.windows_s]
        return [
            (w, bucket_ms) for w, bucket_ms in buckets if bucket_ms >= first_bucket(expired_ms, w)
        ]

    def _count_pairs(self, event: Engagement, history: _History, place: int) -> None:
        partners = paired_items(
            history.draft.before(place),
            event.item_id,
            event.timestamp_ms,
            self._rules.negative_kinds,
            self._rules.pair_history,
            self._rules.pair_window_ms,
        )
        if not partners:
            return
        day, item_id = day_of(event.timestamp_ms), event.item_id
        self._pairs[day, item_id, item_id] += len(partners)
        for other_id in partners:
            self._pairs[day, item_id, other_id] += 1
            self._pairs[day, other_id, item_id] += 1
            self._pairs[day, other_id, other_id] += 1


class _History:
    """A user's history while it changes: newest `limit` by time, equal times by arrival."""

    def __init__(self, state: UserState) -> None:
        self._state = state
        self.draft = HistoryDraft(state.history)
        self.n_added = 0

    def insert(self, place: int, event: Engagement, limit: int) -> None:
        """Put an event in its place; one older than a full history changes nothing."""
        if place == 0 and len(self.draft.times_ms) >= limit:
            return
        self.draft.insert(place, event.item_id, event.kind, event.timestamp_ms)
        self.draft.keep_newest(limit)
        self.n_added += 1

    def state(self) -> UserState:
        """The state with what was added."""
        version = self._state.version + self.n_added
        return UserState(self._state.user_id, self.draft.history(), version)


def merge_part(
    part: Sequence[tuple[str, Sequence[HistoryEvent]]],
    states: Mapping[str, UserState],
    rules: FoldRules,
) -> tuple[MergedUsers, int]:
    """What some users' imported events change, and how many of them are new.

    Args:
        part: users with their events in order of arrival.
        states: the stored states of these users; a missing user is new.
    """
    changed: dict[str, UserState] = {}
    counts: Counter[str] = Counter()
    n_added = 0
    for user_id, imported in part:
        before = changed.get(user_id) or states.get(user_id) or UserState(user_id)
        after, added = merge_imported(before, imported, rules.history_limit)
        if added:
            changed[user_id] = after
            n_added += len(added)
            counts.update(e.item_id for e in added if e.kind not in rules.negative_kinds)
    return MergedUsers(tuple(changed.values()), counts), n_added


def merge_imported(
    state: UserState, imported: Iterable[HistoryEvent], limit: int
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
