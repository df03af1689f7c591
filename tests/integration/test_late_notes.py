"""An archiver that dies between two tables, while what it was about to store is being changed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys.events import Forgotten, encode_event
from tests.lake_events import (
    NOW_MS,
    ManualClock,
    RecordLog,
    an_archiver,
    an_engagement,
    kafka_settings,
    lake_rows,
    turn_all,
)
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.archiving.filled_table import FilledTable
from train_app.lake.lake_append import Append
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.lake.upkeep.lake_check import check_lake

pytestmark = pytest.mark.integration

VOID = b'{"type":"void"}'
ANNA = encode_event(an_engagement("a", "anna"))
BERT = encode_event(an_engagement("b", "bert"))
FORGET_ANNA = encode_event(Forgotten(event_id="f", user_id="anna", timestamp_ms=NOW_MS))


class Killed(BaseException):
    """The end of the process, for all that the archiver knows."""


class DeadlyLake(Lake):
    """A lake whose writer dies before it commits engagements."""

    @contextmanager
    def append(self, table: LakeTable) -> Generator[Append]:
        """As any, but for one table."""
        if table.name == "engagements":
            raise Killed
        with super().append(table) as append:
            yield append


def a_log(*values: bytes) -> RecordLog:
    """One partition with these records."""
    log = RecordLog(1)
    for offset, value in enumerate(values):
        log.put(0, f"id{offset}", value)
    return log


def die_before_engagements(folder: Path, *values: bytes) -> None:
    """Bring the records into the tables that are committed earlier."""
    lake, settings = DeadlyLake(str(folder / "lake")), kafka_settings(folder)
    archiver = Archiver(
        a_log(*values), lake, settings, now_ms=lambda: NOW_MS, clock_s=ManualClock()
    )
    with pytest.raises(Killed):
        archiver.bring_in([0])
    skipped = FilledTable(Lake(str(folder / "lake")), "skipped")
    skipped.load([0])
    assert skipped.marks == {0: len(values)}


def outcome(folder: Path, log: RecordLog) -> tuple[list[str], dict[int, str], list[str]]:
    """Engagements, notes and problems once a new archiver has gone on."""
    turn_all(an_archiver(log, folder), [0])
    notes = dict(lake_rows(folder, "skipped", "log_offset, reason"))
    problems = check_lake(Lake(str(folder / "lake")), log).problems
    return lake_rows(folder, "engagements", "event_id"), notes, problems


def test_a_record_voided_after_the_kill_is_noted_late(tmp_path: Path) -> None:
    """The notes were past its offset, its table was not."""
    die_before_engagements(tmp_path, VOID, BERT, ANNA)
    ids, notes, problems = outcome(tmp_path, a_log(VOID, BERT, VOID))
    assert (ids, notes, problems) == (["b"], {0: "void", 2: "void"}, [])


def test_a_person_forgotten_after_the_kill_is_noted_late(tmp_path: Path) -> None:
    """The request comes in the same batch as the record, which then never becomes a row."""
    die_before_engagements(tmp_path, VOID, BERT, ANNA)
    ids, notes, problems = outcome(tmp_path, a_log(VOID, BERT, ANNA, FORGET_ANNA))
    assert (ids, problems) == (["b"], [])
    assert notes == {0: "void", 2: "forgotten", 3: "forgetting"}


def test_records_trimmed_after_the_kill_are_noted_as_a_gap(tmp_path: Path) -> None:
    """Also where the gap reaches beyond what the notes had come to."""
    die_before_engagements(tmp_path, VOID, BERT, ANNA)
    log = a_log(VOID, BERT, ANNA, BERT, ANNA)
    log.lose(0, 4)
    ids, notes, problems = outcome(tmp_path, log)
    assert (ids, problems) == (["a"], [])
    assert notes[0] in ("gap", "void")
    gaps = lake_rows(tmp_path, "skipped", "log_offset, end_offset", "reason = 'gap'")
    assert gaps == [(0, 4)]


def test_nothing_is_noted_twice(tmp_path: Path) -> None:
    """Dying again before the same table leaves the late note where it is."""
    die_before_engagements(tmp_path, VOID, BERT, ANNA)
    die_before_engagements(tmp_path, VOID, BERT, VOID)
    outcome(tmp_path, a_log(VOID, BERT, VOID))
    assert lake_rows(tmp_path, "skipped", "log_offset") == [0, 2]


def test_what_was_noted_is_not_decided_anew(tmp_path: Path) -> None:
    """A repeat stays one, though the turn that goes on no longer reads what it repeats."""
    die_before_engagements(tmp_path, BERT, ANNA, BERT)
    ids, notes, problems = outcome(tmp_path, a_log(BERT, VOID, BERT))
    assert (ids, notes, problems) == (["b"], {1: "void", 2: "repeated"}, [])


def test_a_row_that_came_again_late_stays_after_a_restart(tmp_path: Path) -> None:
    """The notes are behind its table: the record is read again, and is no repeat of the first."""
    settings = kafka_settings(tmp_path, commit_records=1)
    late_ms = NOW_MS + settings.events.dedup_window_s * 1000 + 1
    log = RecordLog(1)
    for time_ms, event_id in ((NOW_MS, "a"), (late_ms, "b"), (late_ms, "a")):
        log.put(0, event_id, encode_event(an_engagement(event_id, received_at_ms=time_ms)))
        assert an_archiver(log, tmp_path, settings).run_once([0]) == 1
    ids, notes, problems = outcome(tmp_path, log)
    assert (ids, notes, problems) == (["a", "a", "b"], {}, [])
