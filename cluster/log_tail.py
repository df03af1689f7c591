"""The newest records of the event log, read backwards; shows and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from recsys.events import (
    CatalogueChange,
    Engagement,
    Event,
    Forgotten,
    Impression,
    Outcome,
    ShadowAnswer,
    decode_event,
)
from recsys.stores.log.event_log import EventLog, LogRecord
from recsys.stores.log.log_upkeep import VOID

_VOID_PREFIX = VOID.rstrip(b"}")
READ_RECORDS = 500
MAX_LOOKED_AT = 100_000
"""Records of one partition that are looked at for those asked for."""


@dataclass(frozen=True, slots=True)
class TailedRecord:
    """One record of the log; without an event where it is none."""

    partition: int
    offset: int
    event_id: str
    time_ms: int
    """When it was received where that is known, else the event's own time; 0 without an event."""
    event: Event | None
    problem: str = ""

    def document(self) -> dict[str, Any]:
        """The record as JSON."""
        shown = {
            "partition": self.partition,
            "offset": self.offset,
            "event_id": self.event_id,
            "time_ms": self.time_ms,
        }
        if self.event is None:
            return {**shown, "problem": self.problem}
        return {**shown, "event": msgspec.to_builtins(self.event)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records are asked for; None is any."""

    kind: str | None = None
    """A kind of engagement, or `engagement`, `impression`, `outcome`, `shadow`, `catalogue`,
    `forgotten`."""
    user_id: str | None = None

    def accepts(self, record: TailedRecord) -> bool:
        """Whether a record is asked for."""
        event = record.event
        if self.user_id is not None and getattr(event, "user_id", None) != self.user_id:
            return False
        return self.kind is None or self.kind in kinds_of(event)


def kinds_of(event: Event | None) -> tuple[str, ...]:
    """The names an event goes by, the most precise first."""
    match event:
        case Engagement():
            return event.kind, "engagement"
        case Impression():
            return ("impression",)
        case Outcome():
            return ("outcome",)
        case ShadowAnswer():
            return ("shadow",)
        case CatalogueChange():
            return ("catalogue",)
        case Forgotten():
            return ("forgotten",)
        case None:
            return ("bad",)


def newest_records(log: EventLog, limit: int, wanted: Wanted) -> list[TailedRecord]:
    """At most `limit` records that are wanted, oldest first; partitions merged by time."""
    begins, ends = log.begin_offsets(), log.end_offsets()
    found: list[TailedRecord] = []
    for partition, end in ends.items():
        backwards = _backwards(log, partition, begins[partition], end)
        matching = (record for record in backwards if wanted.accepts(record))
        found += [record for record, _ in zip(matching, range(limit), strict=False)]
    found.sort(key=lambda record: (record.time_ms, record.partition, record.offset))
    return found[-limit:]


def follow_records(
    log: EventLog, wanted: Wanted, show: Callable[[TailedRecord], None], pause: Callable[[], bool]
) -> None:
    """Show what comes to the log from now on, until `pause` answers False."""
    offsets = log.end_offsets()
    while pause():
        for partition, offset in offsets.items():
            for read in log.read(partition, offset, READ_RECORDS):
                offsets[partition] = read.offset + 1
                record = tailed(read)
                if record is not None and wanted.accepts(record):
                    show(record)


def tailed(record: LogRecord) -> TailedRecord | None:
    """A record as it is shown; None for what is left of a forgotten person."""
    if record.value.startswith(_VOID_PREFIX):
        return None
    place = (record.partition, record.offset, record.event_id)
    try:
        event = decode_event(record.value)
    except (ValueError, RecursionError) as error:
        return TailedRecord(*place, 0, None, str(error))
    time_ms = event.received_at_ms if isinstance(event, Engagement) else event.timestamp_ms
    return TailedRecord(*place, time_ms, event)


def _read_range(log: EventLog, partition: int, start: int, end: int) -> list[LogRecord]:
    """The records of a range of offsets; one read may answer less than that."""
    records: list[LogRecord] = []
    while start < end and (found := log.read(partition, start, end - start)):
        records += [read for read in found if read.offset < end]
        start = found[-1].offset + 1
    return records


def _backwards(log: EventLog, partition: int, begin: int, end: int) -> Iterator[TailedRecord]:
    """A partition's records, newest first, as far back as is looked."""
    stop = max(begin, end - MAX_LOOKED_AT)
    while end > stop:
        start = max(stop, end - READ_RECORDS)
        records = _read_range(log, partition, start, end)
        yield from (found for read in reversed(records) if (found := tailed(read)) is not None)
        end = start
