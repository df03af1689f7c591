"""Brings the event log into the lake, every record exactly once; the archiver's work.

Each table carries, in its own commits, the log offsets it has been filled up to. A run that dies
between two tables' commits leaves the later one behind, and the next run fills only that one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from recsys.errors import StoreError
from recsys.events import (
    MAX_FUTURE_MS,
    MIN_TIMESTAMP_MS,
    CatalogueChange,
    Engagement,
    Event,
    Impression,
    Outcome,
    decode_event,
)
from recsys.settings import Settings
from recsys.stores.event_log import EventLog, LogRecord, SqliteEventLog
from train_app.lake.lake_rows import complete_rows, log_mark
from train_app.lake.lake_schema import MAX_RAW_CHARS, PARTITION_COLUMN, TABLES
from train_app.lake.lake_tables import Lake, LakeTable

_log = logging.getLogger(__name__)

MAX_RECORDS_PER_BATCH = 10_000
"""Records in memory at once, and in one commit at most."""
LOG_TABLES = ("engagements", "impressions", "outcomes", "catalogue", "quarantine")
_TABLE_OF: dict[type, str] = {
    Engagement: "engagements",
    Impression: "impressions",
    Outcome: "outcomes",
    CatalogueChange: "catalogue",
}
_RENAMED = {"timestamp": "timestamp_ms", "received_at": "received_at_ms"}

Progress = Callable[[str, int, int | None], None]


@dataclass
class IngestReport:
    """What one run brought in."""

    n_records: int = 0
    """Records of the log that were read."""
    n_rows: dict[str, int] = field(default_factory=dict)
    """Rows added, by table; `quarantine` has the records that are no event."""
    n_missed: int = 0
    """Records that were gone from the log before they could be read."""
    offsets: dict[int, int] = field(default_factory=dict)
    """The next offset of every partition."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """The report as a JSON document."""
        return asdict(self)

    def text(self) -> str:
        """The report for a person."""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.n_rows.items() if count)
        missed = f"; {self.n_missed:,} were gone from the log" if self.n_missed else ""
        return (
            f"{self.n_records:,} log records into the lake in {self.seconds:.1f} s:"
            f" {rows or 'nothing new'}{missed}"
        )


def run_ingest(
    settings: Settings,
    progress: Progress = lambda stage, done, total: None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> IngestReport:
    """Bring the lake up to the present end of the embedded log; without a log, do nothing.

    Raises:
        StoreError: log or lake failed; what was committed stays, running again completes it.
    """
    if not settings.log_path.exists():
        return IngestReport()
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    try:
        return ingest(log, Lake(settings.lake_location), now_ms, progress)
    finally:
        log.close()


def ingest(
    log: EventLog,
    lake: Lake,
    now_ms: Callable[[], int],
    progress: Progress = lambda stage, done, total: None,
    max_records: int = MAX_RECORDS_PER_BATCH,
) -> IngestReport:
    """Read from the lake's own offsets to the log's present end, batch by batch.

    Raises:
        StoreError: as `run_ingest`; also when another archiver committed first.
    """
    started_s = time.monotonic()
    report = IngestReport(n_rows=dict.fromkeys(LOG_TABLES, 0))
    targets = [_Target(lake, name) for name in LOG_TABLES]
    ends, begins = log.end_offsets(), log.begin_offsets()
    for partition, end in ends.items():
        marks = [target.position(partition) for target in targets]
        _refuse_replaced_log(lake, partition, max(marks), end)
        position = min(marks)
        if begins[partition] > position:
            report.n_missed += begins[partition] - position
            _log.error(
                "partition %d: records %d to %d are gone from the log",
                partition, position, begins[partition] - 1,
            )  # fmt: skip
            position = begins[partition]
        while position < end:
            records = log.read(partition, position, min(max_records, end - position))
            if not records:
                raise StoreError(
                    f"the log has no record at offset {position} of partition {partition}, expected"
                    f" it up to {end}; check the log's file"
                )
            position = records[-1].offset + 1
            rows = rows_by_table(records, now_ms())
            for target in targets:
                report.n_rows[target.name] += target.append(rows[target.name], partition, position)
            report.n_records += len(records)
            progress("ingest", report.n_records, None)
        for target in targets:
            target.advance(partition, end)
        report.offsets[partition] = end
    report.seconds = time.monotonic() - started_s
    return report


def rows_by_table(records: Sequence[LogRecord], now_ms: int) -> dict[str, list[dict[str, Any]]]:
    """The lake rows of log records; a record that is no valid event becomes a quarantine row."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in LOG_TABLES}
    for record in records:
        place = {
            "sequence": record.offset,
            "log_partition": record.partition,
            "log_offset": record.offset,
        }
        try:
            event = decode_event(record.value)
            _check_time(event, now_ms)
        except (ValueError, RecursionError) as error:
            rows["quarantine"].append(
                {
                    "event_id": record.event_id,
                    "source": "log",
                    "reason": str(error),
                    "raw": record.value.decode("utf-8", "backslashreplace")[:MAX_RAW_CHARS],
                    "received_at_ms": now_ms,
                    **place,
                }
            )
            continue
        fields = {_RENAMED.get(k, k): v for k, v in msgspec.to_builtins(event).items()}
        rows[_TABLE_OF[type(event)]].append({**fields, **place})
    return rows


class _Target:
    """One table of the lake, and how far into each partition it has been filled."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.name = name
        self._lake = lake
        self._table: LakeTable = lake.open(name)

    def position(self, partition: int) -> int:
        return self._table.mark(log_mark(partition)) or 0

    def append(self, rows: list[dict[str, Any]], partition: int, end: int) -> int:
        """Commit the rows this table does not have yet; without any, nothing."""
        position = self.position(partition)
        fresh = [row for row in rows if row["log_offset"] >= position]
        if fresh:
            self._commit(fresh, partition, end)
        return len(fresh)

    def advance(self, partition: int, end: int) -> None:
        """Note that the table is filled up to `end`, when no row of it has said so."""
        if self.position(partition) < end:
            self._commit([], partition, end)

    def _commit(self, rows: list[dict[str, Any]], partition: int, end: int) -> None:
        mark = log_mark(partition)
        before = self._table.mark(mark)
        with self._lake.append(self._table) as append:
            if rows:
                append.write(_as_table(self.name, rows))
            append.commit({mark: (before, end)}, {"partition": partition, "end": end})
        self._table = self._lake.open(self.name)


def _as_table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([column for column in TABLES[name] if column.name != PARTITION_COLUMN])
    day_column = "received_at_ms" if name == "quarantine" else "timestamp_ms"
    table = complete_rows(name, pa.Table.from_pylist(rows, schema), day_column)
    return table.sort_by([(PARTITION_COLUMN, "ascending"), ("log_offset", "ascending")])


def _check_time(event: Event, now_ms: int) -> None:
    received_ms = event.received_at_ms if isinstance(event, Engagement) else now_ms
    if not MIN_TIMESTAMP_MS <= event.timestamp_ms <= received_ms + MAX_FUTURE_MS:
        raise ValueError(
            f"timestamp {event.timestamp_ms} is not between 1990 and an hour after its arrival"
        )


def _refuse_replaced_log(lake: Lake, partition: int, position: int, end: int) -> None:
    if position > end:
        raise StoreError(
            f"the lake {lake.location} has read partition {partition} of the log up to {position},"
            f" but the log ends at {end}: it was replaced or restored from an older copy; restore"
            " the newer one, or go on with another data_dir"
        )
