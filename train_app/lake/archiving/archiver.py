"""Follows the event log into the lake: every record is in it exactly once, whatever dies when.

Each table carries, in its own commits, the log offsets it has been filled up to. A run that dies
between two tables' commits leaves the later one behind, and the next one fills only that one.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import pyarrow as pa

from recsys.settings import Settings
from recsys.stores.log.event_log import EventLog
from recsys.stores.log.open_log import log_may_repeat
from train_app.lake.archiving.added_tables import begin_added_tables
from train_app.lake.archiving.filled_table import FilledTable, stored_positions
from train_app.lake.archiving.late_notes import late_notes
from train_app.lake.archiving.log_reading import LogReading
from train_app.lake.archiving.repeated_events import RepeatedEvents
from train_app.lake.event_columns import Decoded, Rows, as_table, quarantine_misfits
from train_app.lake.lake_errors import MarkMoved
from train_app.lake.lake_schema import LOG_TABLES
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_forgetting import Forgetting, delete_rows
from train_app.lake.upkeep.lake_upkeep import LakeUpkeep, Taken

_log = logging.getLogger(__name__)

ADVANCE_EVERY_S = 60.0
"""A table without new rows says so often how far it has been filled."""
MAX_TABLE_LAG = 200_000
"""And earlier than that where it would be behind by so many records."""


class Archiver:
    """One follower of some partitions; any number may be alive, also of the same partitions.

    Args:
        taken_elsewhere: the offsets each other follower of the log has taken, by partition; the
            embedded log is trimmed behind all of them. Without it the log is never trimmed.
        writer: names this process in the lake's history.
    """

    def __init__(
        self,
        log: EventLog,
        lake: Lake,
        settings: Settings,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock_s: Callable[[], float] = time.monotonic,
        taken_elsewhere: Callable[[], Sequence[Taken]] | None = None,
        writer: str = f"{socket.gethostname()}:{os.getpid()}",
    ) -> None:
        self._log, self._lake, self._settings = log, lake, settings
        self._now_ms, self._clock_s, self._writer = now_ms, clock_s, writer
        self._tables: dict[str, FilledTable] = {}
        self._reading: LogReading | None = None
        self._advance_due_s = 0.0
        # A log that stores an event id once gives nothing that would have to be remembered.
        self._repeats: RepeatedEvents | None = None
        if log_may_repeat(settings):
            self._repeats = RepeatedEvents(settings.events.dedup_window_s * 1000)
        self._upkeep = LakeUpkeep(log, lake, settings, now_ms, clock_s, taken_elsewhere)
        self.n_bad = 0
        """Records that went to quarantine."""
        self.n_missed = 0
        """Records that were gone from the log before they could be read."""
        self.n_repeated = 0
        """Records whose event the lake had already."""
        self.n_fenced = 0
        """Times another archiver was first, and this one went on from what that one stored."""
        self.n_rows: Counter[str] = Counter()
        """Rows added, by table."""
        self.n_forgotten: Counter[str] = Counter()
        """Rows deleted because the log asked for it, by table."""

    def run_once(self, partitions: Collection[int]) -> int:
        """Read what is new, and commit it when enough is there or it has waited long enough.

        Returns:
            Records committed.

        Raises:
            StoreError: log or lake failed; the next turn starts from what the lake has.
        """
        n_records = self._turn(partitions, is_last=False)
        if not n_records:
            self._upkeep.run_once(partitions)
        return n_records

    def bring_in(self, partitions: Collection[int]) -> int:
        """As `run_once`, but commit whatever was read and note in every table how far it is."""
        return self._turn(partitions, is_last=True)

    def lag(self, partitions: Collection[int]) -> int:
        """Records of these partitions that are not in the lake yet."""
        if self._reading is not None and set(self._reading.pending.stretches) == set(partitions):
            positions = self._reading.pending.begins()
        else:
            positions = stored_positions(self._lake, partitions)
        ends = self._log.end_offsets()
        return sum(max(0, ends.get(p, 0) - position) for p, position in positions.items())

    def close(self) -> None:
        """Let go of what was read and not committed: whoever is next reads it again."""
        self._reading = None

    def _turn(self, partitions: Collection[int], *, is_last: bool) -> int:
        try:
            reading = self._follow(partitions)
            reading.read()
            n_records = self._commit(reading) if is_last or reading.is_due() else 0
            self._advance(reading.pending.begins(), is_last=is_last)
        except MarkMoved as moved:
            _log.info("going on from what another archiver has stored: %s", moved)
            self._reading = None
            self.n_fenced += 1
            return 0
        except BaseException:
            self._reading = None
            raise
        return n_records

    def _follow(self, partitions: Collection[int]) -> LogReading:
        """What is being read; from the lake's marks where partitions changed or a turn failed."""
        if self._reading is not None and set(self._reading.pending.stretches) == set(partitions):
            return self._reading
        if not self._tables:
            self._tables = {name: FilledTable(self._lake, name) for name in LOG_TABLES}
        for table in self._tables.values():
            table.load(partitions)
        positions = {partition: self._position(partition) for partition in partitions}
        if self._repeats is not None:
            self._repeats.load(self._tables.values(), partitions)
        self._advance_due_s = self._clock_s() + ADVANCE_EVERY_S
        store = f"the lake {self._lake.location}"
        self._reading = LogReading(self._log, positions, self._settings.lake, store, self._clock_s)
        return self._reading

    def _position(self, partition: int) -> int:
        """Where to read on: what the table that is least far needs next."""
        begin_added_tables(self._tables, partition, self._writer)
        return min(table.marks[partition] or 0 for table in self._tables.values())

    def _commit(self, reading: LogReading) -> int:
        """Bring in what was read; the number of records."""
        pending, now_ms = reading.pending, self._now_ms()
        if pending.since_s is None:
            return 0
        for table in self._tables.values():
            table.check()
        decoded = pending.decode(now_ms)
        if decoded.forgettings:
            # Before the marks move past the request: a turn that dies here does it again.
            asked = [Forgetting(*found) for found in decoded.forgettings]
            self.n_forgotten.update(delete_rows(self._lake, asked, now_ms))
            self._tables["skipped"].check()
        if self._repeats is not None:
            self._repeats.drop(decoded, self._tables, now_ms)
        late = late_notes(decoded, self._tables)
        try:
            lacking, columns = self._columns(decoded)
        except (pa.ArrowException, ValueError, OverflowError):
            quarantine_misfits(decoded, pending.records(), now_ms)
            lacking, columns = self._columns(decoded)
        if len(late):
            # Before the marks of the tables that were behind move past these offsets.
            self._tables["skipped"].commit(as_table("skipped", late), {}, self._writer)
            self._count("skipped", late)
        self._write(lacking, columns, pending.ends())
        if self._repeats is not None:
            self._repeats.remember(decoded)
        reading.committed()
        return pending.n_records

    def _columns(self, decoded: Decoded) -> tuple[dict[str, Rows], dict[str, pa.Table]]:
        """By table the rows it has not got yet, also as the columns that are written."""
        lacking = {name: self._tables[name].lacking(decoded.rows[name]) for name in LOG_TABLES}
        return lacking, {name: as_table(name, rows) for name, rows in lacking.items() if len(rows)}

    def _write(
        self,
        lacking: Mapping[str, Rows],
        columns: Mapping[str, pa.Table],
        ends: Mapping[int, int],
    ) -> None:
        for name in LOG_TABLES:
            table = self._tables[name]
            behind = table.behind(ends)
            # A table's first commit comes even without rows: later it tells "behind" from "new".
            if behind and (name in columns or None in table.marks.values()):
                table.commit(columns.get(name), behind, self._writer)
                self._count(name, lacking[name])

    def _count(self, name: str, rows: Rows) -> None:
        self.n_rows[name] += len(rows)
        if name == "quarantine":
            self.n_bad += len(rows)
        elif name == "skipped":
            for skip, offset in zip(rows.entries, rows.offsets, strict=True):
                self.n_missed += skip.end_offset - offset if skip.reason == "gap" else 0
                self.n_repeated += skip.reason == "repeated"

    def _advance(self, ends: Mapping[int, int], *, is_last: bool) -> None:
        """Have the tables that got no rows say how far they are filled all the same."""
        now_s = self._clock_s()
        is_due = is_last or now_s >= self._advance_due_s
        if is_due:
            self._advance_due_s = now_s + ADVANCE_EVERY_S
        for table in self._tables.values():
            behind = table.behind(ends)
            lag = max((end - (table.marks[p] or 0) for p, end in behind.items()), default=0)
            if lag and (is_due or lag > MAX_TABLE_LAG):
                table.commit(None, behind, self._writer)
