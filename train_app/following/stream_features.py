"""The only writer of the online feature store: follows the event log and loads imported history.

Each batch is stored in one transaction with the log offsets it ends at, so that a record counts
once, whenever the process dies. What a batch means is `feature_fold`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recsys.settings import Settings
from recsys.stores.event_log import EventLog, LogRecord
from recsys.stores.feature_tables import FeatureWriter
from recsys.types import HistoryEvent, UserState
from train_app.following.feature_fold import (
    FoldRules,
    PopularWindow,
    decode_records,
    fold_events,
    merge_imported,
)

_log = logging.getLogger(__name__)

MAX_RECORDS_PER_TURN = 2_000
"""Records taken in one turn, over all partitions: bounds memory and the hold of the write lock."""
POPULAR_EVERY_S = 1.0
"""The live popular list is written at most so often."""
_USERS_PER_LOAD = 500


@dataclass(frozen=True, slots=True)
class HistoryLoad:
    """What an import changed in the feature store."""

    n_users: int
    """Users that were offered, changed or not."""
    n_events_added: int


class FeatureStream:
    """Keeps the feature store in step with the event log; one turn per `run_once`.

    Two streams on one store do no harm: the one that finds other offsets than it left there
    starts again from what is stored.

    Args:
        log: the log to follow.
        path: the feature store; made where missing.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        log: EventLog,
        path: Path,
        settings: Settings,
        *,
        max_records: int = MAX_RECORDS_PER_TURN,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._event_log = log
        self._writer = FeatureWriter(path)
        self._rules = fold_rules(settings)
        self._popular_limit = settings.features.popular_limit
        self._max_records = max_records
        self._clock_s = clock_s
        self._offsets: dict[int, int] | None = None
        self._newest_ms = 0
        self._window = PopularWindow()
        self._popular_is_stale = False
        self._popular_due_s = 0.0
        self.n_bad = 0
        """Records skipped because they are no event."""
        self.n_missed = 0
        """Records that were gone from the log before they could be read."""

    def run_once(self) -> int:
        """Take in what is new in the log, up to a bound; the number of records taken in.

        Raises:
            StoreError: nothing was changed; the next turn starts from what is stored.
        """
        try:
            offsets = self._offsets or self._resume()
            records = self._read(offsets)
            n_taken = self._store(records, offsets) if records else 0
            if self._popular_is_stale and self._clock_s() >= self._popular_due_s:
                self._write_popular()
        except BaseException:
            self._offsets = None
            raise
        return n_taken

    def lag(self) -> int:
        """Records of the log that are not yet in the feature store."""
        offsets = self._offsets or self._resume()
        ends = self._event_log.end_offsets()
        return sum(end - offsets.get(partition, 0) for partition, end in ends.items())

    def close(self) -> None:
        """Give the feature store back; the log stays open."""
        self._writer.close()

    def _resume(self) -> dict[int, int]:
        """Start from what is stored."""
        begins, ends = self._event_log.begin_offsets(), self._event_log.end_offsets()
        with self._writer.transaction():
            stored = self._writer.offsets()
            offsets = {partition: stored.get(partition, begins[partition]) for partition in ends}
            for partition, offset in offsets.items():
                if offset > ends[partition]:
                    _log.error(
                        f"partition {partition} was read up to {offset} and now ends at"
                        f" {ends[partition]}: the log was replaced; reading it from its beginning"
                    )
                    offsets[partition] = begins[partition]
            self._writer.write_offsets(offsets)
            self._newest_ms = self._writer.newest_ms()
            self._window = PopularWindow(self._writer.live_counts())
        self._popular_is_stale = True
        self._offsets = offsets
        return offsets

    def _read(self, offsets: dict[int, int]) -> list[LogRecord]:
        """The next records of each partition that has any, an equal part of the turn each."""
        ends = self._event_log.end_offsets()
        behind = [partition for partition, end in ends.items() if end > offsets[partition]]
        records: list[LogRecord] = []
        for partition in behind:
            start = offsets[partition]
            found = self._event_log.read(partition, start, max(1, self._max_records // len(behind)))
            if found and found[0].offset > start:
                self.n_missed += found[0].offset - start
                _log.error(
                    f"partition {partition}: records {start} to {found[0].offset - 1} are gone from"
                    " the log; import the history again to mend the affected users"
                )
            records += found
        return records

    def _store(self, records: list[LogRecord], offsets: dict[int, int]) -> int:
        decoded = decode_records(records)
        with self._writer.transaction():
            stored = self._writer.offsets()
            if any(stored.get(partition) != offset for partition, offset in offsets.items()):
                self._offsets = None
                return 0
            states = self._writer.users(decoded.user_ids)
            update = fold_events(decoded, states, self._newest_ms, self._rules)
            self._writer.apply(update)
        self._offsets = {**offsets, **update.next_offsets}
        self._newest_ms = update.newest_ms
        self._window.advance(update)
        self._popular_is_stale = self._popular_is_stale or bool(decoded.engagements)
        self.n_bad += len(decoded.bad)
        for record, reason in decoded.bad[:3]:
            _log.warning(
                f"skipped record {record.offset} of partition {record.partition}: {reason}"
            )
        return len(records)

    def _write_popular(self) -> None:
        ranked = self._window.top(self._popular_limit)
        with self._writer.transaction():
            self._writer.write_popular("live", ranked)
        self._popular_is_stale = False
        self._popular_due_s = self._clock_s() + POPULAR_EVERY_S


def load_histories(
    path: Path,
    user_histories: Iterable[tuple[str, Sequence[HistoryEvent]]],
    settings: Settings,
) -> HistoryLoad:
    """Merge imported engagements into the stored histories, and count them as popular.

    The same import again changes nothing. Memory is bounded by some hundred users' events.

    Args:
        path: the feature store; made where missing.
        user_histories: users with their events in order of arrival, each user once.

    Raises:
        StoreError: what was loaded up to here is kept; the same import again completes it.
    """
    writer = FeatureWriter(path)
    n_users = n_added = 0
    pending = iter(user_histories)
    try:
        while part := list(islice(pending, _USERS_PER_LOAD)):
            n_users += len(part)
            n_added += _load_part(writer, part, fold_rules(settings))
        with writer.transaction():
            popular = writer.most_imported(settings.features.popular_limit)
            writer.write_popular("import", popular)
    finally:
        writer.close()
    return HistoryLoad(n_users, n_added)


def fold_rules(settings: Settings) -> FoldRules:
    """The settings that decide what events do to features."""
    return FoldRules(
        history_limit=settings.features.history_limit,
        window_ms=settings.features.popular_window_s * 1000,
        negative_kinds=frozenset(settings.events.negative_kinds),
    )


def _load_part(
    writer: FeatureWriter, part: list[tuple[str, Sequence[HistoryEvent]]], rules: FoldRules
) -> int:
    counts: Counter[str] = Counter()
    changed: dict[str, UserState] = {}
    n_added = 0
    with writer.transaction():
        states = writer.users([user_id for user_id, _ in part])
        for user_id, imported in part:
            before = changed.get(user_id) or states.get(user_id) or UserState(user_id)
            after, added = merge_imported(before, imported, rules.history_limit)
            if not added:
                continue
            changed[user_id] = after
            n_added += len(added)
            counts.update(
                event.item_id for event in added if event.kind not in rules.negative_kinds
            )
        writer.write_users(changed.values())
        writer.add_imported_counts(counts)
    return n_added
