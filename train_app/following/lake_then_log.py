"""The event log from its first record on: what it has dropped is read from the lake.

For evidence, which needs slates and reactions in the log's order; other records read as voids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import msgspec

from recsys.errors import DataError
from recsys.events import Engagement, Event, Impression, Outcome, ShownItem
from recsys.stores.log.event_log import EventLog, LogPosition, LogRecord
from recsys.stores.log.log_upkeep import VOID
from train_app.following.evidence.evidence_records import CountedShadow
from train_app.lake.archiving.filled_table import stored_positions
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake

OFFSETS_PER_QUERY = 20_000
_COLUMNS = {
    "engagements": (
        "event_id, kind, user_id, item_id, timestamp_ms, received_at_ms, request_id, position,"
        " value, origin"
    ),
    "impressions": (
        "event_id, request_id, user_id, timestamp_ms, bundle_id, variant, slate,"
        " coalesce(history_version, 0) AS history_version, context, experiment,"
        " coalesce(coverage, 1) AS coverage, degraded, stage_ms, diversity, novelty"
    ),
    "outcomes": (
        "event_id, request_id, user_id, timestamp_ms, bundle_id, variant, status, reason,"
        " latency_ms, experiment"
    ),
    "shadows": (
        "event_id, user_id, timestamp_ms, shadow_id, status, reason, live_items, items, live_ms,"
        " shadow_ms, degraded"
    ),
}
_ADDED = ("experiment", "diversity", "novelty")
"""Columns that tables of earlier releases lack: null there."""
_encoder = msgspec.json.Encoder()


class LakeThenLog:
    """A log to follow once from its beginning; it is `log` from where the lake ends.

    Args:
        log: stays open.
        lake: has been brought up to where the log begins, or further.

    Raises:
        DataError: the lake ends before the log begins.
    """

    def __init__(self, log: EventLog, lake: Lake) -> None:
        self._kept = log
        self._location = lake.location
        self._connection = duckdb.connect()
        self._runs: dict[int, tuple[int, list[LogRecord]]] = {}
        """By partition: the records read ahead, and the offset of the first."""
        begins = log.begin_offsets()
        self._lake_ends = stored_positions(lake, begins)
        for partition, begin in begins.items():
            if self._lake_ends[partition] < begin:
                raise DataError(
                    f"the lake holds partition {partition} of the log up to"
                    f" {self._lake_ends[partition]}, expected {begin} or more, where the log begins"
                )
        with lake_errors("read", self._location):
            for name in _COLUMNS:
                table = lake.find(name)
                if table is None:
                    self._connection.register(name, TABLES[name].empty_table())
                else:
                    table.attach(self._connection, name)
            self._columns = {name: self._there(name, wanted) for name, wanted in _COLUMNS.items()}

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """As the log does."""
        return self._kept.append(events)

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At most `limit` records of one partition from `offset` on; none is missing."""
        end = self._lake_ends[partition]
        if offset >= end:
            return self._kept.read(partition, offset, limit)
        first, records = self._runs.get(partition, (0, []))
        if not first <= offset < first + len(records):
            first, records = (
                offset,
                self._load(partition, offset, min(offset + OFFSETS_PER_QUERY, end)),
            )
            self._runs[partition] = (first, records)
        return records[offset - first : offset - first + limit]

    def begin_offsets(self) -> dict[int, int]:
        """The first record ever, of every partition."""
        return dict.fromkeys(self._lake_ends, 0)

    def end_offsets(self) -> dict[int, int]:
        """As the log says."""
        return self._kept.end_offsets()

    def close(self) -> None:
        """Leave the lake; the log stays open."""
        self._connection.close()

    def _there(self, name: str, columns: str) -> str:
        """The columns of a table; null where an earlier release made it without."""
        there = self._connection.sql(f"SELECT * FROM {name} LIMIT 0").columns
        for column in _ADDED:
            if column not in there:
                columns = columns.replace(f", {column}", f", NULL AS {column}")
        return columns

    def _load(self, partition: int, start: int, stop: int) -> list[LogRecord]:
        records = [LogRecord(partition, offset, "", VOID) for offset in range(start, stop)]
        with lake_errors("read", self._location):
            for name, columns in self._columns.items():
                query = (
                    f"SELECT log_offset, {columns} FROM {name} WHERE log_partition = {partition}"
                    f" AND log_offset >= {start} AND log_offset < {stop}"
                )
                for row in self._connection.sql(query).to_arrow_table().to_pylist():
                    offset = row.pop("log_offset")
                    event = _event(name, row)
                    record = LogRecord(partition, offset, event.event_id, _encoder.encode(event))
                    records[offset - start] = record
        return records


def _event(table: str, row: dict[str, Any]) -> Event | CountedShadow:
    """The event that gave a row of the lake, as far as evidence is made of it."""
    if table == "engagements":
        return Engagement(**row)
    if table == "outcomes":
        return Outcome(**row)
    if table == "shadows":
        lists = ("live_items", "items", "degraded")
        return CountedShadow(**(row | {name: tuple(row[name] or ()) for name in lists}))
    slate = tuple(ShownItem(**shown) for shown in row.pop("slate") or ())
    degraded = tuple(row.pop("degraded") or ())
    context, stage_ms = (dict(row.pop(name) or ()) for name in ("context", "stage_ms"))
    return Impression(slate=slate, degraded=degraded, context=context, stage_ms=stage_ms, **row)
