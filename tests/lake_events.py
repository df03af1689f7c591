"""Events, logs and lakes for the tests of what goes from the log into the lake."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import duckdb

from recsys.events import CatalogueChange, Engagement, Event, Impression, ShownItem
from recsys.settings import Settings
from recsys.stores.log.event_log import LogPosition, LogRecord
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.lake_tables import Lake

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


class ManualClock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The present second."""
        return self.now_s


class RecordLog:
    """A log as Kafka may be: an id can come twice, records can be gone, anything can be written."""

    def __init__(self, n_partitions: int = 2) -> None:
        self._records: dict[int, list[LogRecord]] = {p: [] for p in range(n_partitions)}
        self._ends = dict.fromkeys(range(n_partitions), 0)
        self._begins = dict.fromkeys(range(n_partitions), 0)

    def put(self, partition: int, event_id: str, value: bytes) -> int:
        """Add one record; its offset."""
        offset = self._ends[partition]
        self._records[partition].append(LogRecord(partition, offset, event_id, value))
        self._ends[partition] = offset + 1
        return offset

    def lose(self, partition: int, before: int) -> None:
        """The records below an offset are gone."""
        self._begins[partition] = before
        kept = [record for record in self._records[partition] if record.offset >= before]
        self._records[partition] = kept
        self._ends[partition] = max(before, self._ends[partition])

    def leave_out(self, partition: int, offset: int) -> None:
        """One record in the middle is gone."""
        kept = [record for record in self._records[partition] if record.offset != offset]
        self._records[partition] = kept

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """Nothing appends through this interface here."""
        raise AssertionError(f"{len(events)} events appended to a log that is only read")

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At most `limit` records from `offset` on."""
        found = [record for record in self._records[partition] if record.offset >= offset]
        return found[:limit]

    def begin_offsets(self) -> dict[int, int]:
        """The oldest kept offsets."""
        return dict(self._begins)

    def end_offsets(self) -> dict[int, int]:
        """The next offsets."""
        return dict(self._ends)

    def close(self) -> None:
        """Nothing to give back."""


def kafka_settings(folder: Path, **lake: Any) -> Settings:
    """Settings under which ids may come twice, and every turn commits."""
    lake = {"commit_every_s": 1e-9, **lake}
    return Settings.model_validate(
        {"data_dir": folder, "events": {"backend": "kafka", "n_partitions": 2}, "lake": lake}
    )


def sqlite_settings(folder: Path, **lake: Any) -> Settings:
    """Settings of the embedded log, under which every turn commits."""
    lake = {"commit_every_s": 1e-9, **lake}
    return Settings.model_validate(
        {"data_dir": folder, "events": {"n_partitions": 2}, "lake": lake}
    )


def an_archiver(log: Any, folder: Path, settings: Settings | None = None) -> Archiver:
    """An archiver of the lake in `folder` at a fixed time."""
    settings = kafka_settings(folder) if settings is None else settings
    lake = Lake(settings.lake_location)
    return Archiver(log, lake, settings, now_ms=lambda: NOW_MS, clock_s=ManualClock())


def turn_all(archiver: Archiver, partitions: Collection[int] = (0, 1)) -> int:
    """Bring in what the log has; the number of records."""
    n_records = 0
    while taken := archiver.bring_in(partitions):
        n_records += taken
    return n_records


def an_engagement(event_id: str, user_id: str = "u", received_at_ms: int = NOW_MS) -> Engagement:
    """A click."""
    return Engagement(
        event_id=event_id,
        kind="click",
        user_id=user_id,
        item_id="i",
        timestamp_ms=received_at_ms,
        received_at_ms=received_at_ms,
        origin="api",
    )


def some_events(n_rounds: int, first: int = 0) -> list[Event]:
    """Engagements, impressions and more of several users, over two days."""
    events: list[Event] = []
    for n in range(first, first + n_rounds):
        user, time_ms = f"u{n % 5}", NOW_MS - (n % 2) * DAY_MS + n
        shown = ShownItem(
            item_id="i", position=0, score=1.5, propensity=0.5, source="index",
            retrieval_score=0.25, retrieval_rank=3,
        )  # fmt: skip
        events += [
            Engagement(
                event_id=f"e{n}", kind="click", user_id=user, item_id="i", timestamp_ms=time_ms,
                received_at_ms=time_ms, origin="api", request_id=f"r{n}", position=0, value=2.5,
            ),
            Impression(
                event_id=f"p{n}", request_id=f"r{n}", user_id=user, timestamp_ms=time_ms,
                bundle_id="b", variant="stable", slate=(shown,), history_items=("h",),
                context={"device": "tv"}, stage_ms={"score": 1.25}, degraded=("late",),
            ),
            CatalogueChange(
                event_id=f"c{n}", item_id=f"i{n}", timestamp_ms=time_ms, title="T",
                categories=("a",),
            ),
        ]  # fmt: skip
    return events


def lake_rows(folder: Path, table: str, columns: str, where: str = "true") -> list[Any]:
    """A query of one table; one column gives plain values. Nothing where there is no table."""
    found = Lake(str(folder / "lake")).find(table)
    if found is None:
        return []
    connection = duckdb.connect()
    found.attach(connection, "rows")
    query = f"SELECT {columns} FROM rows WHERE {where} ORDER BY ALL"
    rows = connection.execute(query).fetchall()
    return [row[0] for row in rows] if rows and len(rows[0]) == 1 else rows
