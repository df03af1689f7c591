"""Shadow answers in the lake: whole, once, forgettable, and in lakes that had no such table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recsys.events import Forgotten, ShadowAnswer, encode_event
from recsys.settings import Settings
from tests.lake_events import (
    NOW_MS,
    RecordLog,
    an_archiver,
    an_engagement,
    kafka_settings,
    lake_rows,
    turn_all,
)
from train_app.checking.lake_views import open_lake_views
from train_app.checking.table_checks import check_nulls, check_ranges, check_schema
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.compaction import compact_lake
from train_app.lake.upkeep.lake_check import check_lake

pytestmark = pytest.mark.integration


def an_answer(event_id: str, user_id: str = "u", **changes: Any) -> ShadowAnswer:
    """What a shadow would have shown in place of a slate of two."""
    fields: dict[str, Any] = {
        "event_id": event_id,
        "request_id": f"r-{event_id}",
        "user_id": user_id,
        "timestamp_ms": NOW_MS,
        "shadow_id": "s1",
        "bundle_id": "b2",
        "live_bundle_id": "b1",
        "status": 200,
        "reason": "",
        "live_items": ("i", "j"),
        "items": ("j", "k"),
        "propensities": (0.75, 0.5),
        "live_ms": 4.5,
        "shadow_ms": 9.25,
        "degraded": ("late",),
    }
    return ShadowAnswer(**fields | changes)


def put(log: RecordLog, *answers: ShadowAnswer) -> None:
    """Add records to partition 0."""
    for answer in answers:
        log.put(0, answer.event_id, encode_event(answer))


def ids(folder: Path) -> list[str]:
    """The event ids of the table."""
    found: list[str] = lake_rows(folder, "shadows", "event_id")
    return found


def problems(folder: Path, log: RecordLog) -> list[str]:
    """What a check of the lake finds wrong."""
    return check_lake(Lake(str(folder / "lake")), log).problems


def test_every_field_of_an_answer_is_a_column(tmp_path: Path) -> None:
    """With its place in the log; a failed copy has no slate."""
    log = RecordLog(1)
    failed = an_answer(
        "b",
        status=504,
        reason="deadline",
        items=(),
        propensities=(),
        degraded=(),
        live_items=("i",),
    )
    put(log, an_answer("a"), failed)
    turn_all(an_archiver(log, tmp_path), [0])
    columns = [name for name in ShadowAnswer.__struct_fields__ if name != "schema_version"]
    rows = lake_rows(tmp_path, "shadows", ", ".join([*columns, "log_offset"]))
    for row, answer, offset in zip(rows, (an_answer("a"), failed), (0, 1), strict=True):
        said = [getattr(answer, name) for name in columns]
        assert list(row) == [list(v) if isinstance(v, tuple) else v for v in said] + [offset]
    assert problems(tmp_path, log) == []


def test_an_answer_counts_once_and_a_broken_one_stops_nobody(tmp_path: Path) -> None:
    """Twice in the log, cut off in the middle, with a number no column holds, from before 1990."""
    log = RecordLog(1)
    put(log, an_answer("a"), an_answer("a"))
    turn_all(an_archiver(log, tmp_path), [0])
    put(log, an_answer("a"), an_answer("b", status=2**40), an_answer("c", timestamp_ms=1))
    log.put(0, "d", encode_event(an_answer("d"))[:-20])
    put(log, an_answer("e"))
    turn_all(an_archiver(log, tmp_path), [0])
    assert ids(tmp_path) == ["a", "e"]
    assert lake_rows(tmp_path, "skipped", "log_offset", "reason = 'repeated'") == [1, 2]
    assert lake_rows(tmp_path, "quarantine", "event_id") == ["b", "c", "d"]
    assert problems(tmp_path, log) == []


def test_a_person_is_forgotten_here_too(tmp_path: Path) -> None:
    """Before the word only, and of nobody else; small files become one beside it."""
    log = RecordLog(1)
    archiver = an_archiver(log, tmp_path)
    for number in range(4):
        put(log, an_answer(f"a{number}", "alice"), an_answer(f"b{number}", "bob"))
        turn_all(archiver, [0])
    word = Forgotten(event_id="f", user_id="alice", timestamp_ms=NOW_MS)
    log.put(0, "f", encode_event(word))
    put(log, an_answer("a9", "alice"))
    turn_all(archiver, [0])
    assert archiver.n_forgotten["shadows"] == 4
    settings = Settings.model_validate({"data_dir": tmp_path, "lake": {"compact_files": 2}})
    compact_lake(Lake(settings.lake_location), settings.lake, progress=lambda *_: None)
    assert ids(tmp_path) == ["a9", "b0", "b1", "b2", "b3"]
    assert problems(tmp_path, log) == []


def test_a_table_that_was_moved_away_is_filled_again_from_the_log(tmp_path: Path) -> None:
    """From the first answer that no table has."""
    log = RecordLog(1)
    log.put(0, "e", encode_event(an_engagement("e")))
    put(log, an_answer("s0"), an_answer("s1"))
    log.put(0, "e2", encode_event(an_engagement("e2")))
    turn_all(an_archiver(log, tmp_path), [0])
    shutil.rmtree(tmp_path / "lake" / "shadows")
    assert "2 offsets are in no table" in problems(tmp_path, log)[0]
    assert turn_all(an_archiver(log, tmp_path), [0]) == 3
    assert ids(tmp_path) == ["s0", "s1"]
    assert lake_rows(tmp_path, "engagements", "event_id") == ["e", "e2"]
    assert problems(tmp_path, log) == []


def test_the_data_checks_look_at_answers(tmp_path: Path) -> None:
    """Propensities must belong to items, and statuses be statuses."""
    log = RecordLog(1)
    put(log, an_answer("a"))
    turn_all(an_archiver(log, tmp_path), [0])
    settings = kafka_settings(tmp_path)
    with open_lake_views(settings, NOW_MS) as views:
        assert check_schema(views).findings + check_nulls(views).findings == ()
        assert check_ranges(views).findings == ()
    put(log, an_answer("b", propensities=(0.5,)), an_answer("c", status=7, shadow_id=""))
    turn_all(an_archiver(log, tmp_path), [0])
    with open_lake_views(settings, NOW_MS) as views:
        said = [finding.detail for finding in check_ranges(views).findings]
        empty = [finding.detail for finding in check_nulls(views).findings]
    assert ["1 rows of shadows have" in one for one in said] == [True, True]
    assert "1 without shadow_id" in empty[0]
