"""What keeps lake and log small while the archiver runs: compaction, retention, trimming.

A failure of it is said in the log and never stops the archiver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from recsys.bundles.registry import open_registry
from recsys.errors import RecsysError
from recsys.settings import Settings
from recsys.stores.log.event_log import EventLog, SqliteEventLog
from train_app.lake.archiving.filled_table import stored_positions
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.compaction import compact_lake
from train_app.lake.upkeep.lake_retention import pinned_versions, vacuum_lake
from train_app.lake.upkeep.log_trimming import record_time_ms, taken_by_all, trim_before

_log = logging.getLogger(__name__)

COMPACT_EVERY_S = 60.0
VACUUM_EVERY_S = 6 * 3600.0
TRIM_EVERY_S = 600.0
KEEPER_PARTITION = 0
"""Of several archivers the one that follows this partition does the work."""
Taken = Mapping[int, int]
"""The next offset a follower needs, by partition."""


class LakeUpkeep:
    """Does one piece of work at a time, each as often as it is worth it.

    Args:
        taken_elsewhere: as for `Archiver`.
    """

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        settings: Settings,
        now_ms: Callable[[], int],
        clock_s: Callable[[], float],
        taken_elsewhere: Callable[[], Sequence[Taken]] | None,
    ) -> None:
        self._log, self._lake, self._settings = log, lake, settings
        self._now_ms, self._clock_s = now_ms, clock_s
        self._taken_elsewhere = taken_elsewhere
        began_s = clock_s()
        self._due_s = {
            self._compact: began_s + COMPACT_EVERY_S,
            self._trim: began_s + TRIM_EVERY_S,
            self._vacuum: began_s + VACUUM_EVERY_S,
        }
        self._every_s = {
            self._compact: COMPACT_EVERY_S,
            self._trim: TRIM_EVERY_S,
            self._vacuum: VACUUM_EVERY_S,
        }

    def run_once(self, partitions: Collection[int]) -> None:
        """Do what is due first, if anything is, and if this archiver is the one to do it."""
        if KEEPER_PARTITION not in partitions:
            return
        now_s = self._clock_s()
        due = next((work for work, due_s in self._due_s.items() if now_s >= due_s), None)
        if due is None:
            return
        self._due_s[due] = now_s + self._every_s[due]
        try:
            due()
        except (RecsysError, OSError) as error:
            _log.warning("upkeep of the lake failed, it is tried again later: %s", error)

    def _compact(self) -> None:
        report = compact_lake(self._lake, self._settings.lake, max_days=1)
        if report.n_removed:
            _log.info("compacted %d files into %d", report.n_removed, report.n_added)

    def _vacuum(self) -> None:
        pinned = pinned_versions(open_registry(self._settings))
        report = vacuum_lake(self._lake, pinned, self._settings.lake.retention_days)
        _log.info("deleted %d old files of the lake", sum(report.n_files.values()))

    def _trim(self) -> None:
        log = self._log
        if self._taken_elsewhere is None or not isinstance(log, SqliteEventLog):
            return
        begins = log.begin_offsets()
        taken = [stored_positions(self._lake, begins), *self._taken_elsewhere()]
        oldest_ms = self._now_ms() - self._settings.events.retention_s * 1000
        for partition, begin in begins.items():

            def is_old(offset: int, partition: int = partition) -> bool:
                return _is_old(log, partition, offset, oldest_ms)

            before = trim_before(begin, taken_by_all(taken, partition), is_old)
            if before > begin:
                n_trimmed = log.trim(partition, before)
                _log.info("trimmed %d records of partition %d", n_trimmed, partition)


def _is_old(log: EventLog, partition: int, offset: int, oldest_ms: int) -> bool:
    """Whether the first record from an offset on that has a time is past the retention."""
    for record in log.read(partition, offset, 50):
        time_ms = record_time_ms(record.value)
        if time_ms is not None:
            return time_ms < oldest_ms
    return False
