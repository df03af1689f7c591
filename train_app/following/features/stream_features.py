"""Keeps the online feature store: follows the event log, partition by partition.

Each run of a partition's records is stored in one transaction with the offset it ends at, and only
where the stored offset is the one it began at: a record counts once, whoever dies or competes.
What the records mean is `feature_fold`. Beside it `load_history` merges imports, `rebuild_features`
makes a store anew, and `train_app.forgetting` takes a person out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator

from recsys.errors import StoreError
from recsys.settings import Settings
from recsys.stores.features.feature_update import FeatureWriter
from recsys.stores.log import open_log
from recsys.stores.log.event_log import EventLog, LogRecord
from train_app.following.features.feature_fold import fold_rules
from train_app.following.features.feature_records import DecodedPart, decode_part
from train_app.following.features.publish_lists import ListPublisher
from train_app.following.features.replay_lake import find_replay
from train_app.following.store_part import store_part

_log = logging.getLogger(__name__)

MAX_RECORDS_PER_TURN = 2_000
"""Records taken in one turn, over all partitions: bounds memory and the hold of the write lock."""


class FeatureStream:
    """Keeps the feature store in step with some partitions of the event log.

    Any number may be alive at once, on the same partitions too. A store that has nothing of a
    partition the lake already holds is filled from the lake first.

    Args:
        log: the log to follow; stays open.
        writer: the store to keep; closed with the stream.
        log_may_repeat: whether the log can hold an event id more than once; as the settings
            tell without it.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        log: EventLog,
        writer: FeatureWriter,
        settings: Settings,
        *,
        log_may_repeat: bool | None = None,
        max_records: int = MAX_RECORDS_PER_TURN,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if log_may_repeat is None:
            log_may_repeat = open_log.log_may_repeat(settings)
        self._event_log = log
        self._writer = writer
        self._rules = fold_rules(settings, log_may_repeat=log_may_repeat)
        self._lists = ListPublisher(writer, settings, self._rules, clock_s)
        self._lake_location = settings.lake_location
        self._popular_limit = settings.features.popular_limit
        self._max_records = max_records
        self._stored: dict[int, int | None] = {}
        """The stored offsets, as far as they are known."""
        self._asked: set[int] = set()
        """Partitions that the lake has been asked for."""
        self._gaps: dict[int, int] = {}
        """Where the log was found to have lost records, by partition."""
        self._replay: Iterator[int] | None = None
        self.n_bad = 0
        """Records skipped because they are no event."""
        self.n_missed = 0
        """Records that were gone from the log before they could be read."""
        self.n_repeated = 0
        """Events whose id had been counted before."""

    def run_once(self, partitions: Collection[int]) -> int:
        """Take in what is new in some partitions, up to a bound; the number of records taken in.

        Raises:
            StoreError: what was stored up to here is kept; the next turn goes on from there. Also
                where the log ends before what was taken in.
        """
        try:
            n_replayed = self._replay_some(partitions)
            if n_replayed is not None:
                return n_replayed
            ends = self._event_log.end_offsets()
            n_taken = self._follow(partitions, ends)
            if min(ends) in partitions:
                self._lists.publish(ends, is_idle=not n_taken)
            else:
                self._lists.rest()
        except BaseException:
            self._stored.clear()
            self._asked.clear()
            self._lists.rest()
            self._replay = None
            raise
        return n_taken

    def lag(self, partitions: Collection[int]) -> int:
        """Records of these partitions that are not yet in the feature store."""
        ends, begins = self._event_log.end_offsets(), self._event_log.begin_offsets()
        lag = 0
        for partition in partitions:
            # What is gone from the log cannot be waited for.
            stored = max(self._writer.offset(partition) or 0, begins[partition])
            lag += max(0, ends[partition] - stored)
        return lag

    def close(self) -> None:
        """Give the feature store back; the log stays open."""
        self._writer.close()

    def _replay_some(self, partitions: Collection[int]) -> int | None:
        """Go on with filling the store from the lake; None where there is nothing to fill."""
        if self._replay is None:
            self._replay = self._find_replay(partitions)
        if self._replay is None:
            return None
        n_rows = next(self._replay, None)
        if n_rows is None:
            self._replay = None
            self._stored.clear()
        return n_rows

    def _find_replay(self, partitions: Collection[int]) -> Iterator[int] | None:
        """The replay of what the store lacks and the log no longer has, where the lake has it."""
        new = [partition for partition in sorted(partitions) if partition not in self._asked]
        if not new:
            return None
        begins = self._event_log.begin_offsets()
        stored = {partition: self._offset(partition) for partition in new}
        lacking = {p: at for p, at in stored.items() if at is None or at < begins[p]}
        found = find_replay(
            self._event_log,
            self._lake_location,
            self._writer,
            self._rules,
            lacking,
            self._popular_limit,
        )
        self._asked.update(new)
        return found

    def _follow(self, partitions: Collection[int], ends: dict[int, int]) -> int:
        starts = {partition: self._start(partition, ends) for partition in sorted(partitions)}
        behind = [partition for partition, start in starts.items() if ends[partition] > start]
        n_taken = 0
        for partition in behind:
            if partition not in self._stored:
                break
            limit = max(1, self._max_records // len(behind))
            records = self._event_log.read(partition, starts[partition], limit)
            if records:
                n_taken += self._take(partition, starts[partition], records)
        return n_taken

    def _start(self, partition: int, ends: dict[int, int]) -> int:
        """Where to read on; the log's beginning where nothing was read, which is then stored."""
        stored = self._offset(partition)
        if stored is None:
            begin = self._event_log.begin_offsets()[partition]
            store_part(self._writer, None, DecodedPart(partition, begin), self._rules)
            del self._stored[partition]
            return self._offset(partition) or 0
        if stored > ends[partition]:
            # Since the ends were asked for, another follower may have taken what came then.
            _refuse_older_log(partition, stored, self._event_log.end_offsets()[partition])
        return stored

    def _offset(self, partition: int) -> int | None:
        if partition not in self._stored:
            self._stored[partition] = self._writer.offset(partition)
        return self._stored[partition]

    def _take(self, partition: int, start: int, records: list[LogRecord]) -> int:
        """Store what one partition's records change; how many were taken in."""
        if records[0].offset > start and self._gaps.get(partition) != start:
            # The lake may have what is gone from the log.
            self._gaps[partition] = start
            self._asked.discard(partition)
            return 0
        decoded = decode_part(partition, records[-1].offset + 1, records)
        offset = self._stored.pop(partition)
        update = store_part(self._writer, offset, decoded, self._rules)
        if update is None:
            # Another stream was first, or the store was emptied: nothing known of it holds.
            self._stored.clear()
            self._asked.clear()
            return 0
        self._stored[partition] = update.next_offset
        self._lists.note(offset, update)
        self.n_repeated += update.n_repeated
        self._say_missed(partition, start, records[0].offset)
        self._say_bad(decoded)
        return len(records)

    def _say_missed(self, partition: int, start: int, found: int) -> None:
        if found > start:
            self.n_missed += found - start
            _log.error(
                f"partition {partition}: records {start} to {found - 1} are gone from the log;"
                " their events are in no feature; rebuild the features from the lake"
            )

    def _say_bad(self, decoded: DecodedPart) -> None:
        self.n_bad += len(decoded.bad)
        for record, reason in decoded.bad[:3]:
            _log.warning(
                f"skipped record {record.offset} of partition {record.partition}: {reason}"
            )


def _refuse_older_log(partition: int, stored: int, end: int) -> None:
    """Refuse a log that ends before what was taken in: read again, it would count twice."""
    if stored > end:
        raise StoreError(
            f"the features hold partition {partition} of the log up to offset {stored}, expected a"
            f" log that ends there or later, but it ends at {end}: it was replaced or restored from"
            " an older copy; restore the newer one, or compute the features anew with 'cluster"
            " events replay --features', and with --from-lake where histories were imported"
        )
