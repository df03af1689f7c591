"""The log reaches the lake exactly once, whenever the archiver dies and however many run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from recsys.errors import StoreError
from recsys.events import (
    CatalogueChange,
    Engagement,
    Event,
    Impression,
    Outcome,
    ShownItem,
    encode_event,
)
from recsys.settings import Settings
from recsys.stores.event_log import LogRecord, SqliteEventLog
from train_app.lake.ingest import LOG_TABLES, IngestReport, ingest, rows_by_table, run_ingest
from train_app.lake.lake_tables import Append, Lake, LakeTable

pytestmark = pytest.mark.integration

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


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


def a_log(folder: Path, events: list[Event]) -> SqliteEventLog:
    """A log that holds these events."""
    log = SqliteEventLog(folder / "events.sqlite", 2)
    log.append(events)
    return log


def bring_in(log: SqliteEventLog, lake: Lake) -> IngestReport:
    """One run in small batches."""
    return ingest(log, lake, lambda: NOW_MS, max_records=7)


def lake_ids(folder: Path) -> dict[str, list[str]]:
    """The event ids of every table, with repeats."""
    found = {}
    for name in LOG_TABLES:
        table = Lake(str(folder / "lake")).find(name)
        connection = duckdb.connect()
        if table is not None:
            table.attach(connection, "rows")
            query = connection.sql("SELECT event_id FROM rows ORDER BY event_id")
            found[name] = [row[0] for row in query.fetchall()]
    return found


def expected_ids(events: list[Event]) -> dict[str, list[str]]:
    """What the lake has to hold of these events."""
    prefixes = {"engagements": "e", "impressions": "p", "outcomes": "o", "catalogue": "c"}
    ids = sorted(event.event_id for event in events)
    found = {name: [i for i in ids if i[0] == prefix] for name, prefix in prefixes.items()}
    return {**found, "quarantine": []}


class DyingLake(Lake):
    """A lake whose process dies at the n-th append, before or after the commit."""

    def __init__(self, location: str, n_appends: int, after_commit: bool) -> None:
        super().__init__(location)
        self._left = n_appends
        self._after_commit = after_commit

    @contextmanager
    def append(self, table: LakeTable) -> Generator[Append]:
        """Append, or die."""
        self._left -= 1
        if self._left == 0 and not self._after_commit:
            raise KeyboardInterrupt
        with super().append(table) as append:
            yield append
        if self._left == 0:
            raise KeyboardInterrupt


class CrossingLog(SqliteEventLog):
    """A log during whose n-th read another archiver makes a whole run."""

    other: Lake
    reads_left: int

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """Read, after the other one has run."""
        self.reads_left -= 1
        if self.reads_left == 0:
            bring_in(self, self.other)
        return super().read(partition, offset, limit)


def test_every_event_lands_in_its_table_with_all_its_fields(tmp_path: Path) -> None:
    """Nested fields and log places included; the days are partitions."""
    events = some_events(4)
    events.append(
        Outcome(
            event_id="o",
            request_id="r",
            user_id="u",
            timestamp_ms=NOW_MS,
            bundle_id="b",
            variant="stable",
            status=503,
            reason="shed",
            latency_ms=2.5,
        )
    )
    report = bring_in(a_log(tmp_path, events), Lake(str(tmp_path / "lake")))
    assert (report.n_records, report.n_rows["engagements"]) == (13, 4)
    assert lake_ids(tmp_path) == expected_ids(events)
    connection = duckdb.connect()
    table = Lake(str(tmp_path / "lake")).find("impressions")
    assert table is not None
    table.attach(connection, "rows")
    row = connection.sql(
        "SELECT slate[1].item_id, slate[1].propensity, slate[1].retrieval_rank, context['device'],"
        " stage_ms['score'], degraded, history_items, event_date::VARCHAR, log_offset IS NOT NULL"
        " FROM rows WHERE event_id = 'p0'"
    ).fetchall()[0]
    assert row == ("i", 0.5, 3, "tv", 1.25, ["late"], ["h"], "2023-11-14", True)


def test_a_second_run_reads_only_what_is_new(tmp_path: Path) -> None:
    """The lake's own offsets say where to go on, also for tables that got no rows."""
    log, lake = a_log(tmp_path, some_events(6)), Lake(str(tmp_path / "lake"))
    assert bring_in(log, lake).n_records == 18
    assert bring_in(log, lake).n_records == 0
    log.append(some_events(2, first=6))
    report = bring_in(log, lake)
    assert report.n_records == 6
    assert report.offsets == log.end_offsets()
    assert lake_ids(tmp_path) == expected_ids(some_events(8))


@pytest.mark.parametrize("after_commit", [False, True])
def test_dying_at_any_commit_loses_and_doubles_nothing(tmp_path: Path, after_commit: bool) -> None:
    """One run dies at its first append, the next at its second, until one gets through."""
    events = some_events(6)
    log = a_log(tmp_path, events)
    for n_appends in range(1, 40):
        lake = DyingLake(str(tmp_path / "lake"), n_appends, after_commit)
        try:
            bring_in(log, lake)
        except KeyboardInterrupt:
            continue
        break
    assert n_appends > 3
    assert bring_in(log, Lake(str(tmp_path / "lake"))).n_records == 0
    assert lake_ids(tmp_path) == expected_ids(events)


@pytest.mark.parametrize("at_read", [1, 2, 3])
def test_of_two_archivers_the_one_left_behind_is_fenced(tmp_path: Path, at_read: int) -> None:
    """The zombie's commit is refused, whatever the other did meanwhile."""
    events = some_events(6)
    a_log(tmp_path, events).close()
    log = CrossingLog(tmp_path / "events.sqlite", 2)
    log.other, log.reads_left = Lake(str(tmp_path / "lake")), at_read
    with pytest.raises(StoreError, match="another writer"):
        bring_in(log, Lake(str(tmp_path / "lake")))
    assert lake_ids(tmp_path) == expected_ids(events)


def test_records_that_are_no_event_go_to_quarantine_with_the_reason() -> None:
    """Broken JSON, a wrong field, and times out of range stop nothing."""
    good, late = some_events(1)[0], some_events(1)[0]
    values = [
        encode_event(good),
        b"{not json",
        b'{"type":"engagement"}',
        encode_event(late).replace(str(NOW_MS).encode(), str(NOW_MS * 1000).encode(), 1),
    ]
    records = [LogRecord(1, n, f"id{n}", value) for n, value in enumerate(values)]
    rows = rows_by_table(records, NOW_MS)
    assert [row["event_id"] for row in rows["engagements"]] == ["e0"]
    assert [(row["event_id"], row["log_offset"]) for row in rows["quarantine"]] == [
        ("id1", 1), ("id2", 2), ("id3", 3),
    ]  # fmt: skip
    assert "event_id" in rows["quarantine"][1]["reason"]
    assert "1990" in rows["quarantine"][2]["reason"]
    assert rows["quarantine"][0]["raw"] == "{not json"


def test_a_log_that_was_replaced_is_refused(tmp_path: Path) -> None:
    """Its records would stand at offsets the lake has already: the message says what to do."""
    lake = Lake(str(tmp_path / "lake"))
    bring_in(a_log(tmp_path, some_events(6)), lake)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(StoreError, match="replaced or restored"):
        bring_in(a_log(other, some_events(1)), lake)


def test_without_a_log_there_is_nothing_to_do(tmp_path: Path) -> None:
    """No log and no lake come into being."""
    report = run_ingest(Settings(data_dir=tmp_path / "var"))
    assert (report.n_records, report.text().endswith("nothing new")) == (0, True)
    assert not (tmp_path / "var").exists()
    assert report.as_dict()["n_missed"] == 0
