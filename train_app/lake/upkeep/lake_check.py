"""Proves from the lake alone that every record of the log is in it exactly once.

Per partition each offset below the marks is a row of one table, or `skipped` says why it is not;
per table each event id is there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import numpy as np

from recsys.stores.log.event_log import EventLog
from train_app.lake.archiving.repeated_events import EVENT_TABLES
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_rows import log_mark
from train_app.lake.lake_schema import LATER_TABLES, LOG_TABLES, TABLES
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.lake.upkeep.offset_check import MAX_EXAMPLES, offset_problems, read_column

IDS_PER_SLICE = 10_000_000
"""Event ids of a table compared at once: eight bytes of memory each, and as much to sort them."""
UNIQUE_TABLES = (*EVENT_TABLES, "users")
"""A bad record, or one that was skipped, may come twice like any other and is kept twice."""
MEMORY_LIMIT = "1GB"
DEDUP_WINDOW_MS = 172_800_000
_PROBED_PARTITIONS = 16
"""So many partitions without a mark in a row end the search for more."""


@dataclass
class TableCheck:
    """One table as it was found."""

    version: int
    n_files: int = 0
    n_rows: int = 0
    n_imported: int = 0
    """Rows from files, which have no place in the log."""
    n_repeated_late: int = 0
    """Ids that came again after the time within which an id counts once."""
    marks: dict[int, int] = field(default_factory=dict)
    """By partition, how far the table has been filled."""
    rows_by_partition: dict[int, int] = field(default_factory=dict)


@dataclass
class PartitionCheck:
    """One partition of the log as the lake has it."""

    end: int
    """Every table has been filled up to here."""
    n_rows: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Offsets without a row of their own, by reason."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """The lost ones among them, from and to, the last one exclusive."""
    log_begin: int | None = None
    """The log's own ends, where it could be asked."""
    log_end: int | None = None


@dataclass
class LakeCheckReport:
    """What was found, and what is wrong with it."""

    tables: dict[str, TableCheck] = field(default_factory=dict)
    partitions: dict[int, PartitionCheck] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong; records that the log lost are counted in `n_lost` instead."""
        return not self.problems

    @property
    def n_lost(self) -> int:
        """Records that were gone from the log before they could be read."""
        return sum(part.skipped.get("gap", 0) for part in self.partitions.values())

    @property
    def lag(self) -> int:
        """Records of the log that are not in the lake yet, where the log could be asked."""
        parts = self.partitions.values()
        return sum(max(0, part.log_end - part.end) for part in parts if part.log_end is not None)

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        figures = {"is_whole": self.is_whole, "n_lost": self.n_lost, "lag": self.lag}
        return {**figures, **asdict(self)}


def check_lake(
    lake: Lake, log: EventLog | None = None, *, dedup_window_ms: int = DEDUP_WINDOW_MS
) -> LakeCheckReport:
    """Check all tables against each other, and against the log's ends where it is given.

    What looks wrong is looked at once more: between the reading of two tables an archiver may have
    filled one, or a forgetting emptied it.

    Args:
        dedup_window_ms: an event id that comes again within this time counts once.

    Raises:
        StoreError: a table or one of its files cannot be read.
    """
    report = _look(lake, log, dedup_window_ms)
    return report if report.is_whole else _look(lake, log, dedup_window_ms)


def _look(lake: Lake, log: EventLog | None, dedup_window_ms: int) -> LakeCheckReport:
    report = LakeCheckReport()
    connection = duckdb.connect(config={"memory_limit": MEMORY_LIMIT})
    opened: dict[str, LakeTable] = {}
    for name in TABLES:
        table = lake.find(name)
        if table is not None:
            opened[name] = table
            with lake_errors("check", table.location):
                table.attach(connection, name)
                report.tables[name] = _count(connection, table)
                if name in UNIQUE_TABLES:
                    _check_ids(connection, name, report, dedup_window_ms)
    # The log is asked after the lake, so that a lake that reads on is never ahead of it.
    ends = log.end_offsets() if log is not None else {}
    begins = log.begin_offsets() if log is not None else {}
    tables = {name: report.tables[name] for name in LOG_TABLES if name in report.tables}
    with lake_errors("check", lake.location):
        partitions = _read_marks(opened, report, set(ends))
        for partition in partitions:
            report.partitions[partition] = PartitionCheck(
                _common_end(tables, partition),
                log_begin=begins.get(partition),
                log_end=ends.get(partition),
            )
            _check_partition(connection, partition, tables, report)
    return report


def _common_end(tables: Mapping[str, TableCheck], partition: int) -> int:
    marks = {name: table.marks.get(partition) for name, table in tables.items()}
    for name in LATER_TABLES:
        if marks.get(name) is None:
            # A lake from before that table.
            marks.pop(name, None)
    return min((mark or 0 for mark in marks.values()), default=0)


def _count(connection: duckdb.DuckDBPyConnection, table: LakeTable) -> TableCheck:
    checked = TableCheck(table.version, len(table.files()))
    query = f"SELECT log_partition, count(*) FROM {table.name} GROUP BY ALL ORDER BY ALL"
    for partition, n_rows in connection.execute(query).fetchall():
        checked.n_rows += n_rows
        if partition is None:
            checked.n_imported = n_rows
        else:
            checked.rows_by_partition[partition] = n_rows
    return checked


def _read_marks(
    opened: Mapping[str, LakeTable], report: LakeCheckReport, known: set[int]
) -> list[int]:
    """Take the marks of every log table into the report; the partitions that have any.

    A table cannot be asked which marks it has: partitions without rows are looked for upwards.
    """
    for checked in report.tables.values():
        known |= set(checked.rows_by_partition)
    last = max(known, default=-1)
    found: set[int] = set(known)
    for name in LOG_TABLES:
        table, partition = opened.get(name), 0
        while table is not None and partition <= last + _PROBED_PARTITIONS:
            mark = table.mark(log_mark(partition))
            if mark is not None:
                report.tables[name].marks[partition] = mark
                found.add(partition)
                last = max(last, partition)
            partition += 1
    return sorted(found)


def _check_ids(
    connection: duckdb.DuckDBPyConnection, name: str, report: LakeCheckReport, window_ms: int
) -> None:
    """Compare the ids of a table by their hashes, and then exactly the few whose hashes meet."""
    checked = report.tables[name]
    n_slices = max(1, -(-checked.n_rows // IDS_PER_SLICE))
    suspects: list[int] = []
    for part in range(n_slices):
        query = (
            f"SELECT hash(event_id) FROM {name}"
            f" WHERE event_id IS NOT NULL AND hash(event_id) % {n_slices} = {part}"
        )
        read = read_column(connection, query, np.uint64)
        hashes = np.sort(np.concatenate(read)) if read else np.empty(0, np.uint64)
        suspects += np.unique(hashes[1:][hashes[1:] == hashes[:-1]]).tolist()
    if not suspects:
        return
    time = "received_at_ms" if "received_at_ms" in TABLES[name].names else "timestamp_ms"
    repeats = connection.execute(
        f"SELECT event_id, max({time}) - min({time}) FROM {name}"
        " WHERE hash(event_id) IN (SELECT unnest($1::UBIGINT[]))"
        " GROUP BY event_id HAVING count(*) > 1 ORDER BY event_id",
        [suspects],
    ).fetchall()
    wrong = [event_id for event_id, apart_ms in repeats if (apart_ms or 0) <= window_ms]
    checked.n_repeated_late = len(repeats) - len(wrong)
    if wrong:
        report.problems.append(
            f"{name}: {len(wrong):,} event ids are there more than once:"
            f" {', '.join(wrong[:MAX_EXAMPLES])}{', ...' if len(wrong) > MAX_EXAMPLES else ''}"
        )


def _check_partition(
    connection: duckdb.DuckDBPyConnection,
    partition: int,
    tables: Mapping[str, TableCheck],
    report: LakeCheckReport,
) -> None:
    checked = report.partitions[partition]
    top = max((table.marks.get(partition, 0) for table in tables.values()), default=0)
    report.problems += offset_problems(connection, partition, list(tables), checked.end, top)
    for name, table in tables.items():
        n_rows, mark = table.rows_by_partition.get(partition, 0), table.marks.get(partition, 0)
        if name == "skipped":
            checked.skipped = _skipped(connection, partition)
            checked.gaps = _gaps(connection, partition)
            continue
        checked.n_rows += n_rows
        beyond = connection.execute(
            f"SELECT count(*) FROM {name} WHERE log_partition = {partition}"
            f" AND log_offset >= {mark}"
        ).fetchall()[0][0]
        if beyond:
            report.problems.append(
                f"partition {partition}: {beyond:,} rows of {name} lie past its mark {mark}"
            )
    if checked.log_end is not None and checked.log_end < checked.end:
        report.problems.append(
            f"partition {partition}: the lake has read up to {checked.end}, but the log ends at"
            f" {checked.log_end}; it was replaced or restored from an older copy"
        )


def _skipped(connection: duckdb.DuckDBPyConnection, partition: int) -> dict[str, int]:
    counts = connection.execute(
        "SELECT reason, sum(n)::BIGINT FROM (SELECT DISTINCT reason, log_offset,"
        f" end_offset - log_offset AS n FROM skipped WHERE log_partition = {partition})"
        " GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    return dict(counts)


def _gaps(connection: duckdb.DuckDBPyConnection, partition: int) -> list[tuple[int, int]]:
    return connection.execute(
        "SELECT DISTINCT log_offset, end_offset FROM skipped WHERE reason = 'gap'"
        f" AND log_partition = {partition} ORDER BY ALL"
    ).fetchall()
