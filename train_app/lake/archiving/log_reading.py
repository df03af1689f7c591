"""Reads the log, a bounded amount at a time, into what waits for the lake."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from recsys.data_settings import LakeSettings
from recsys.errors import StoreError
from recsys.stores.log.event_log import MAX_READ_BYTES, EventLog
from train_app.lake.archiving.archive_batch import Pending

_log = logging.getLogger(__name__)

MAX_PENDING_BYTES = 32 * 1024 * 1024
"""No more waits, in values; so large records are committed earlier than the settings say."""
MAX_RECORDS_PER_READ = 10_000
LOOK_EVERY_S = 1.0
"""How often the ends of a partition that gave nothing are looked at."""


class LogReading:
    """Some partitions read from given positions on.

    Args:
        positions: where to begin, by partition.
        store: names the reader's store in errors.
    """

    def __init__(
        self,
        log: EventLog,
        positions: Mapping[int, int],
        settings: LakeSettings,
        store: str,
        clock_s: Callable[[], float],
    ) -> None:
        self._log = log
        self._settings = settings
        self._store = store
        self._clock_s = clock_s
        self._look_due_s = 0.0
        self.pending = Pending(positions)

    def read(self) -> None:
        """Read on until nothing is new or enough waits, every partition its share.

        Raises:
            StoreError: the log cannot be read, or is another one than the positions are of.
        """
        silent = set(self.pending.stretches)
        ends: dict[int, int] | None = None
        more = list(self.pending.stretches)
        while more and not self._is_full():
            share = -(-(self._settings.commit_records - self.pending.n_records) // len(more))
            asked, more = more, []
            for partition in asked:
                if self._is_full():
                    break
                n_read = self._read_some(partition, min(share, MAX_RECORDS_PER_READ))
                if not n_read:
                    continue
                silent.discard(partition)
                # A short read need not be the last; what arrives meanwhile is the next turn's.
                ends = self._log.end_offsets() if ends is None else ends
                if self.pending.stretches[partition].end < ends.get(partition, 0):
                    more.append(partition)
        self._look_at(silent)

    def is_due(self) -> bool:
        """Whether what waits should be committed now."""
        since_s = self.pending.since_s
        if since_s is None:
            return False
        return self._is_full() or self._clock_s() - since_s >= self._settings.commit_every_s

    def committed(self) -> None:
        """What waited is in the lake; go on behind it."""
        self.pending = Pending(self.pending.ends())

    def _is_full(self) -> bool:
        pending = self.pending
        return (
            pending.n_records >= self._settings.commit_records
            or pending.n_bytes > MAX_PENDING_BYTES - MAX_READ_BYTES
        )

    def _read_some(self, partition: int, limit: int) -> int:
        stretch = self.pending.stretches[partition]
        begin, n_gaps = stretch.end, len(stretch.gaps)
        records = self._log.read(partition, begin, limit)
        self.pending.add(partition, records, self._clock_s())
        for start, end in stretch.gaps[n_gaps:]:
            _warn_of_gap(partition, start, end)
        return len(records)

    def _look_at(self, silent: Collection[int]) -> None:
        """Where nothing could be read: is the rest of the log gone, or is it another log?"""
        now_s = self._clock_s()
        if not silent or now_s < self._look_due_s:
            return
        self._look_due_s = now_s + LOOK_EVERY_S
        # The begins first: a record that arrives between the two looks is no gap.
        begins, ends = self._log.begin_offsets(), self._log.end_offsets()
        for partition in silent:
            position = self.pending.stretches[partition].end
            if position > ends.get(partition, 0):
                raise StoreError(
                    f"{self._store} has read partition {partition} of the log up to {position}, but"
                    f" the log ends at {ends.get(partition, 0)}: it was replaced or restored from"
                    " an older copy; restore the newer one, or go on with another data_dir"
                )
            if begins.get(partition, 0) > position:
                self.pending.skip_to(partition, begins[partition], now_s)
                _warn_of_gap(partition, position, begins[partition])


def _warn_of_gap(partition: int, start: int, end: int) -> None:
    _log.error("partition %d: records %d to %d are gone from the log", partition, start, end - 1)
