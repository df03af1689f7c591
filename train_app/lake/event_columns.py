"""Decodes log records into the columns of the lake's tables, many at a time.

Knows events and columns; not which of them a table has already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.events import (
    MAX_FUTURE_MS,
    MIN_TIMESTAMP_MS,
    Engagement,
    Event,
    Forgotten,
    decode_event,
)
from recsys.stores.log.event_log import LogRecord
from train_app.lake.lake_rows import complete_rows
from train_app.lake.lake_schema import (
    LOG_TABLES,
    MAX_RAW_CHARS,
    PARTITION_COLUMN,
    TABLES,
    TIME_COLUMNS,
)

VOID_PREFIX = b'{"type":"void"'
"""A record the log has emptied: its offset is kept, what it said is not."""
MAX_RECEIVED_MS = 7_258_118_400_000
"""2200-01-01T00:00:00Z. No clock is asked: a replay, or another machine, decides alike."""
Mask = npt.NDArray[np.bool_]
_TABLE_OF = {
    "engagement": "engagements",
    "impression": "impressions",
    "outcome": "outcomes",
    "shadow": "shadows",
    "catalogue": "catalogue",
}
"""By what a record says it is."""
_PLACE = ("sequence", "log_partition", "log_offset", PARTITION_COLUMN)


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no valid event, and why."""

    event_id: str
    reason: str
    raw: str
    received_at_ms: int
    user_id: str | None = None
    source: str = "log"
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """Offsets that give no row in another table, and why; all but a gap are one record."""

    event_id: str | None
    reason: str
    end_offset: int
    received_at_ms: int


@dataclass(slots=True)
class Rows:
    """The rows of one table on their way into it, with their places in the log."""

    entries: list[Any] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: Any, partition: int, offset: int) -> None:
        """One row more."""
        self.entries.append(entry)
        self.partitions.append(partition)
        self.offsets.append(offset)

    def where(self, mask: Mask) -> Rows:
        """The rows for which the mask is true."""
        if mask.all():
            return self
        chosen = np.flatnonzero(mask).tolist()
        return Rows(
            [self.entries[i] for i in chosen],
            [self.partitions[i] for i in chosen],
            [self.offsets[i] for i in chosen],
        )

    def event_ids(self) -> list[str]:
        """The event id of every row."""
        return [entry.event_id for entry in self.entries]


@dataclass(slots=True)
class Decoded:
    """What a run of records says: rows by table, and who asked to be forgotten where."""

    rows: dict[str, Rows] = field(default_factory=lambda: {name: Rows() for name in LOG_TABLES})
    forgettings: list[tuple[str, int, int]] = field(default_factory=list)
    """User id, partition, offset of the request."""


def decode_records(records: Iterable[LogRecord], now_ms: int) -> Decoded:
    """Sort records by the table they belong to; what is no valid event goes to quarantine."""
    decoded = Decoded()
    rows, skipped, bad = decoded.rows, decoded.rows["skipped"], decoded.rows["quarantine"]
    for record in records:
        partition, offset, value = record.partition, record.offset, record.value
        if value.startswith(VOID_PREFIX):
            skipped.add(Skip(record.event_id, "void", offset + 1, now_ms), partition, offset)
            continue
        event: Event | None = None
        try:
            event = decode_event(value)
            check_time(event)
        except (ValueError, RecursionError) as error:
            bad.add(_bad(record, error, now_ms, event), partition, offset)
            continue
        if isinstance(event, Forgotten):
            decoded.forgettings.append((event.user_id, partition, offset))
            skip = Skip(event.event_id, "forgetting", offset + 1, now_ms)
            skipped.add(skip, partition, offset)
        else:
            rows[_TABLE_OF[str(event.__struct_config__.tag)]].add(event, partition, offset)
    return decoded


def check_time(event: Event) -> None:
    """Refuse times that nobody can have meant, by what the event itself says.

    Raises:
        ValueError: it happened before 1990 or more than an hour after its arrival, or arrived at
            a time that is no date; what says no arrival arrived when it happened.
    """
    received_ms = event.received_at_ms if isinstance(event, Engagement) else event.timestamp_ms
    if received_ms > MAX_RECEIVED_MS:
        raise ValueError(f"received_at {received_ms} is after 2200, expected milliseconds")
    if not MIN_TIMESTAMP_MS <= event.timestamp_ms <= received_ms + MAX_FUTURE_MS:
        raise ValueError(
            f"timestamp {event.timestamp_ms} is not between 1990 and an hour after its arrival"
        )


def quarantine_misfits(decoded: Decoded, records: Iterable[LogRecord], now_ms: int) -> None:
    """Move to quarantine the events whose values no column can hold, such as a number too large.

    Only needed once a table could not be built, because it looks at each row alone.
    """
    by_place = {(record.partition, record.offset): record for record in records}
    bad = decoded.rows["quarantine"]
    for name in _TABLE_OF.values():
        rows = decoded.rows[name]
        fits = np.ones(len(rows), dtype=np.bool_)
        for i, entry in enumerate(rows.entries):
            place = (rows.partitions[i], rows.offsets[i])
            try:
                as_table(name, Rows([entry], [place[0]], [place[1]]))
            except (pa.ArrowException, ValueError, OverflowError) as error:
                fits[i] = False
                bad.add(_bad(by_place[place], error, now_ms, entry), *place)
        decoded.rows[name] = rows.where(fits)


def as_table(name: str, rows: Rows) -> pa.Table:
    """Rows as the Arrow table that is written, by day and then in the log's order.

    Raises:
        pa.ArrowException, ValueError, OverflowError: a value does not fit its column.
    """
    entries = rows.entries
    columns = {
        column.name: _COLUMNS.get(column.name, _plain)(column, entries)
        for column in TABLES[name]
        if column.name not in _PLACE
    }
    offsets = pa.array(rows.offsets, pa.int64())
    columns["sequence"] = columns["log_offset"] = offsets
    columns["log_partition"] = pa.array(rows.partitions, pa.int32())
    table = complete_rows(name, pa.table(columns), TIME_COLUMNS.get(name, "timestamp_ms"))
    days = table[PARTITION_COLUMN].cast(pa.int32()).to_numpy()
    order = np.lexsort((rows.offsets, rows.partitions, days))
    # What was read partition by partition on one day is in order already.
    return table if (order[1:] > order[:-1]).all() else table.take(order)


def _bad(record: LogRecord, error: Exception, now_ms: int, event: Event | None) -> BadRecord:
    raw = record.value.decode("utf-8", "backslashreplace")[:MAX_RAW_CHARS]
    reason = str(error) or type(error).__name__
    return BadRecord(record.event_id, reason, raw, now_ms, getattr(event, "user_id", None))


def _plain(column: pa.Field, entries: Sequence[Any]) -> pa.Array:
    return pa.array(map(attrgetter(column.name), entries), column.type, size=len(entries))


def _mapping(column: pa.Field, entries: Sequence[Any]) -> pa.Array:
    found = [tuple(values.items()) for values in map(attrgetter(column.name), entries)]
    return pa.array(found, column.type)


def _structs(column: pa.Field, entries: Sequence[Any]) -> pa.Array:
    """A list of structs per row, built field by field over all rows at once."""
    lists = list(map(attrgetter(column.name), entries))
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    members = [member for one in lists for member in one]
    fields = list(column.type.value_type)
    arrays = [_plain(member_field, members) for member_field in fields]
    values = pa.StructArray.from_arrays(arrays, fields=fields)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, type=column.type)


_COLUMNS: dict[str, Callable[[pa.Field, Sequence[Any]], pa.Array]] = {
    "slate": _structs,
    "unshown": _structs,
    "dropped": _structs,
    "context": _mapping,
    "stage_ms": _mapping,
}
