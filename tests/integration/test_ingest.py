"""The log reaches the lake exactly once, whenever the archiver dies and however many run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys.errors import StoreError
from recsys.events import Event, Outcome
from recsys.settings import Settings
from recsys.stores.log.event_log import LogRecord, SqliteEventLog
from tests.lake_events import NOW_MS, lake_rows, some_events, sqlite_settings
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.archiving.ingest import IngestReport, ingest, run_ingest
from train_app.lake.lake_append import Append
from train_app.lake.lake_schema import LOG_TABLES
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.lake.upkeep.lake_check import check_lake

pytestmark = pytest.mark.integration


def a_log(folder: Path, events: list[Event]) -> SqliteEventLog:
    """A log that holds these events."""
    log = SqliteEventLog(folder / "events.sqlite", 2)
    log.append(events)
    return log


def bring_in(log: SqliteEventLog, lake: Lake) -> IngestReport:
    """One run in small batches."""
    settings = sqlite_settings(Path("unused"), commit_records=7)
    return ingest(log, lake, Archiver(log, lake, settings, now_ms=lambda: NOW_MS))


def lake_ids(folder: Path) -> dict[str, list[str]]:
    """The event ids of every table, with repeats."""
    return {name: lake_rows(folder, name, "event_id") for name in LOG_TABLES}


def expected_ids(events: list[Event]) -> dict[str, list[str]]:
    """What the lake has to hold of these events."""
    prefixes = {
        "engagements": "e",
        "impressions": "p",
        "outcomes": "o",
        "shadows": "s",
        "catalogue": "c",
    }
    ids = sorted(event.event_id for event in events)
    found = {name: [i for i in ids if i[0] == prefix] for name, prefix in prefixes.items()}
    return {**found, "quarantine": [], "skipped": []}


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
    row = lake_rows(
        tmp_path,
        "impressions",
        "slate[1].item_id, slate[1].propensity, slate[1].retrieval_rank, context['device'],"
        " stage_ms['score'], degraded, history_items, event_date::VARCHAR, log_offset IS NOT NULL",
        "event_id = 'p0'",
    )[0]
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
    for n_appends in range(1, 60):
        lake = DyingLake(str(tmp_path / "lake"), n_appends, after_commit)
        try:
            bring_in(log, lake)
        except KeyboardInterrupt:
            continue
        break
    assert n_appends > 3
    lake = Lake(str(tmp_path / "lake"))
    assert bring_in(log, lake).n_records == 0
    assert lake_ids(tmp_path) == expected_ids(events)
    assert check_lake(lake, log).problems == []


@pytest.mark.parametrize("at_read", [1, 2])
def test_of_two_archivers_the_one_left_behind_is_fenced(tmp_path: Path, at_read: int) -> None:
    """Its commit is refused, whatever the other did meanwhile, and it goes on from there."""
    events = some_events(6)
    a_log(tmp_path, events).close()
    log = CrossingLog(tmp_path / "events.sqlite", 2)
    lake = Lake(str(tmp_path / "lake"))
    log.other, log.reads_left = Lake(str(tmp_path / "lake")), at_read
    settings = sqlite_settings(tmp_path, commit_records=100)
    archiver = Archiver(log, lake, settings, now_ms=lambda: NOW_MS)
    assert (archiver.bring_in([0, 1]), archiver.n_fenced) == (0, 1)
    assert (archiver.bring_in([0, 1]), archiver.n_fenced) == (0, 1)
    assert lake_ids(tmp_path) == expected_ids(events)
    assert check_lake(lake, log).problems == []


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
