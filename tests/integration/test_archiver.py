"""The archiver: gaps, repeats and forgotten people, committed in time and by several at once."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.errors import StoreError
from recsys.events import Forgotten, encode_event
from recsys.stores.log.event_log import EventLog, LogRecord, SqliteEventLog
from tests.lake_events import (
    NOW_MS,
    ManualClock,
    RecordLog,
    an_archiver,
    an_engagement,
    kafka_settings,
    lake_rows,
    some_events,
    sqlite_settings,
    turn_all,
)
from train_app.lake.archiving.archiver import ADVANCE_EVERY_S, Archiver
from train_app.lake.archiving.filled_table import stored_positions
from train_app.lake.lake_rows import append_import, complete_rows
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake
from train_app.lake.upkeep.lake_forgetting import forget_in_lake

pytestmark = pytest.mark.integration


def put(log: RecordLog, partition: int, *event_ids: str, user_id: str = "u") -> None:
    """Add engagements of these ids."""
    for event_id in event_ids:
        log.put(partition, event_id, encode_event(an_engagement(event_id, user_id)))


def ids(folder: Path, table: str = "engagements") -> list[str]:
    """The event ids of a table."""
    found: list[str] = lake_rows(folder, table, "event_id")
    return found


def problems(folder: Path, log: EventLog | None = None) -> list[str]:
    """What a check of the lake finds wrong."""
    return check_lake(Lake(str(folder / "lake")), log).problems


def test_an_id_that_comes_again_counts_once(tmp_path: Path) -> None:
    """In one batch, in a later one, and after a restart; in another partition it is another."""
    log = RecordLog()
    put(log, 0, "a", "b", "a")
    archiver = an_archiver(log, tmp_path)
    turn_all(archiver)
    put(log, 0, "b", "c")
    turn_all(archiver)
    assert (archiver.n_repeated, ids(tmp_path)) == (2, ["a", "b", "c"])
    archiver = an_archiver(log, tmp_path)
    put(log, 0, "c", "d", "a")
    turn_all(archiver)
    assert (archiver.n_repeated, ids(tmp_path)) == (2, ["a", "b", "c", "d"])
    assert problems(tmp_path, log) == []
    where = lake_rows(tmp_path, "skipped", "log_offset", "reason = 'repeated'")
    assert where == [2, 3, 5, 7]


def test_an_id_counts_again_after_the_window(tmp_path: Path) -> None:
    """What is remembered is bounded by time; the check says so and does not call it wrong."""
    log = RecordLog(1)
    settings = kafka_settings(tmp_path)
    late_ms = NOW_MS + settings.events.dedup_window_s * 1000 + 1
    for time_ms, event_id in ((NOW_MS, "a"), (late_ms, "b"), (late_ms, "a")):
        log.put(0, event_id, encode_event(an_engagement(event_id, received_at_ms=time_ms)))
        turn_all(an_archiver(log, tmp_path), [0])
    assert ids(tmp_path) == ["a", "a", "b"]
    report = check_lake(Lake(str(tmp_path / "lake")), log)
    assert (report.problems, report.tables["engagements"].n_repeated_late) == ([], 1)


def test_no_gap_is_silent(tmp_path: Path) -> None:
    """Records gone at the beginning, in the middle and at the end are counted and noted."""
    log = RecordLog(1)
    put(log, 0, *"abcdefgh")
    log.lose(0, 2)
    log.leave_out(0, 4)
    archiver = an_archiver(log, tmp_path)
    turn_all(archiver, [0])
    assert (archiver.n_missed, ids(tmp_path)) == (3, ["c", "d", "f", "g", "h"])
    log.lose(0, 11)
    turn_all(an_archiver(log, tmp_path), [0])
    report = check_lake(Lake(str(tmp_path / "lake")), log)
    assert (report.problems, report.n_lost, report.lag) == ([], 6, 0)
    gaps = lake_rows(tmp_path, "skipped", "log_offset, end_offset", "reason = 'gap'")
    assert gaps == [(0, 2), (4, 5), (8, 11)]


def test_a_commit_comes_after_so_many_records_or_so_much_time(tmp_path: Path) -> None:
    """Until then what was read is held, and is no progress."""
    log, clock = RecordLog(), ManualClock()
    settings = kafka_settings(tmp_path, commit_every_s=5.0, commit_records=4)
    archiver = Archiver(
        log, Lake(str(tmp_path / "lake")), settings, now_ms=lambda: NOW_MS, clock_s=clock
    )
    put(log, 0, "a", "b", "c")
    assert (archiver.run_once([0, 1]), archiver.lag([0, 1])) == (0, 3)
    clock.now_s = 4.9
    assert (archiver.run_once([0, 1]), ids(tmp_path)) == (0, [])
    put(log, 1, "d", "e", "f")
    assert (archiver.run_once([0, 1]), archiver.lag([0, 1])) == (4, 2)
    assert archiver.run_once([0, 1]) == 0
    clock.now_s = 9.8
    assert archiver.run_once([0, 1]) == 0
    clock.now_s = 10.0
    assert (archiver.run_once([0, 1]), archiver.lag([0, 1])) == (2, 0)
    assert ids(tmp_path) == list("abcdef")


def test_a_table_without_rows_follows_after_a_while(tmp_path: Path) -> None:
    """Otherwise a restart would read the log again from the last row of the rarest kind."""
    log, clock = RecordLog(1), ManualClock()
    lake = Lake(str(tmp_path / "lake"))
    archiver = Archiver(log, lake, kafka_settings(tmp_path), now_ms=lambda: 0, clock_s=clock)
    for n in range(3):
        put(log, 0, f"e{n}")
        archiver.run_once([0])
        clock.now_s += 1
        archiver.run_once([0])
    assert (ids(tmp_path), archiver.lag([0])) == (["e0", "e1", "e2"], 0)
    assert stored_positions(lake, [0]) == {0: 1}
    clock.now_s += ADVANCE_EVERY_S
    archiver.run_once([0])
    assert stored_positions(lake, [0]) == {0: 3}


def test_a_request_to_be_forgotten_takes_effect_where_it_stands(tmp_path: Path) -> None:
    """Rows from the log before it and rows from files go, what comes after it stays."""
    log, lake = RecordLog(), Lake(str(tmp_path / "lake"))
    put(log, 0, "a1", "a2", user_id="a")
    put(log, 0, "b1", user_id="b")
    turn_all(an_archiver(log, tmp_path))
    rows = {"event_id": ["i"], "user_id": ["a"], "item_id": ["x"], "timestamp_ms": [1]}
    imported = complete_rows("engagements", pa.table(rows), "timestamp_ms")
    append_import(lake, "engagements", [imported], None, {})
    put(log, 0, "a3", user_id="a")
    ask = Forgotten(event_id="f", user_id="a", timestamp_ms=NOW_MS)
    log.put(0, "f", encode_event(ask))
    put(log, 0, "a4", user_id="a")
    turn_all(an_archiver(log, tmp_path))
    assert ids(tmp_path) == ["a4", "b1"]
    assert problems(tmp_path, log) == []
    notes = lake_rows(tmp_path, "skipped", "log_offset, reason", "log_partition = 0")
    assert notes == [(0, "forgotten"), (1, "forgotten"), (3, "forgotten"), (4, "forgetting")]
    again = "a"
    assert forget_in_lake(lake, again, now_ms=NOW_MS)["engagements"] == 1
    assert forget_in_lake(lake, again, now_ms=NOW_MS)["engagements"] == 0
    assert (ids(tmp_path), problems(tmp_path, log)) == (["b1"], [])


def test_a_forgetting_cut_short_is_completed_by_the_next_turn(tmp_path: Path) -> None:
    """The mark does not pass the request before the rows are gone."""
    log = RecordLog(1)
    put(log, 0, "a1", user_id="a")
    turn_all(an_archiver(log, tmp_path), [0])
    log.put(0, "f", encode_event(Forgotten(event_id="f", user_id="a", timestamp_ms=NOW_MS)))
    data = tmp_path / "lake" / "engagements"
    (hidden,) = data.rglob("*.parquet")
    hidden.rename(tmp_path / "hidden")
    with pytest.raises(StoreError, match="damaged or missing"):
        an_archiver(log, tmp_path).bring_in([0])
    assert stored_positions(Lake(str(tmp_path / "lake")), [0]) == {0: 1}
    (tmp_path / "hidden").rename(hidden)
    turn_all(an_archiver(log, tmp_path), [0])
    assert (ids(tmp_path), problems(tmp_path, log)) == ([], [])


def test_what_the_log_was_emptied_of_is_accounted_for(tmp_path: Path) -> None:
    """Void records give no row and are not bad."""
    log = RecordLog(1)
    put(log, 0, "a")
    log.put(0, "b", b'{"type":"void"}')
    archiver = an_archiver(log, tmp_path)
    turn_all(archiver, [0])
    report = check_lake(Lake(str(tmp_path / "lake")), log)
    assert (archiver.n_bad, report.problems) == (0, [])
    assert report.partitions[0].skipped == {"void": 1}


def test_partitions_can_be_handed_over_at_any_time(tmp_path: Path) -> None:
    """One archiver reads, loses a partition before it commits, and another one takes it on."""
    log = RecordLog()
    slow = kafka_settings(tmp_path, commit_every_s=1000.0)
    first, second = an_archiver(log, tmp_path, slow), an_archiver(log, tmp_path)
    put(log, 0, "a", "b")
    put(log, 1, "c")
    first.run_once([0, 1])
    turn_all(second, [1])
    put(log, 0, "b", "d")
    turn_all(first, [0])
    turn_all(second, [0, 1])
    put(log, 1, "c", "e")
    turn_all(first, [1])
    assert ids(tmp_path) == list("abcde")
    assert problems(tmp_path, log) == []


def test_archivers_of_different_partitions_commit_to_the_same_tables(tmp_path: Path) -> None:
    """Neither fails nor fences the other, however their commits fall."""
    log = SqliteEventLog(tmp_path / "events.sqlite", 2)
    log.append(some_events(20))
    settings = sqlite_settings(tmp_path, commit_records=6)
    archivers = [an_archiver(log, tmp_path, settings) for _ in range(2)]
    failures: list[Exception] = []

    def work(partition: int) -> None:
        try:
            turn_all(archivers[partition], [partition])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(partition,)) for partition in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [archiver.n_fenced for archiver in archivers] == [0, 0]
    assert problems(tmp_path, log) == []
    assert len(ids(tmp_path)) == len(ids(tmp_path, "impressions")) == 20


def test_after_a_failure_the_next_turn_starts_from_the_lake(tmp_path: Path) -> None:
    """A log that cannot be read for a while changes nothing."""

    class FailingLog(RecordLog):
        is_down = False

        def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
            if self.is_down:
                raise StoreError("the broker is away")
            return super().read(partition, offset, limit)

    log = FailingLog(1)
    archiver = an_archiver(log, tmp_path)
    put(log, 0, "a")
    turn_all(archiver, [0])
    log.is_down = True
    with pytest.raises(StoreError, match="broker is away"):
        archiver.run_once([0])
    log.is_down = False
    put(log, 0, "b")
    turn_all(archiver, [0])
    assert (ids(tmp_path), problems(tmp_path, log)) == (["a", "b"], [])


def test_a_lake_from_before_the_skipped_table_goes_on(tmp_path: Path) -> None:
    """What its tables have had is not read again, and no gap is invented."""
    log = RecordLog(1)
    put(log, 0, "a", "b")
    turn_all(an_archiver(log, tmp_path), [0])
    shutil.rmtree(tmp_path / "lake" / "skipped")
    assert problems(tmp_path, log) == []
    log.lose(0, 2)
    put(log, 0, "c")
    archiver = an_archiver(log, tmp_path)
    assert turn_all(archiver, [0]) == 1
    assert (archiver.n_missed, ids(tmp_path), problems(tmp_path, log)) == (0, list("abc"), [])
