"""Every fault planted in a sound lake is found by its check, and by no other."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recsys.errors import DataRefused
from recsys.settings import Settings
from tests.example_lake import an_entry, an_impression
from tests.visited_lake import (
    DAY,
    N_DAYS,
    N_USERS,
    NOW_MS,
    a_row,
    append_foreign,
    built,
    rows,
)
from train_app.checking.check_commands import check_data, checked
from train_app.checking.check_report import CheckReport, write_report
from train_app.checking.run_checks import CHECK_NAMES
from train_app.examples.lake_examples import load_interactions
from train_app.lake.lake_rows import complete_rows
from train_app.lake.lake_tables import Lake
from train_app.progress import open_progress

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a lake without fault."""
    folder = tmp_path_factory.mktemp("sound")
    built(folder, rows())
    return folder


@pytest.fixture
def settings(sound: Path, tmp_path: Path) -> Settings:
    """A copy of the sound lake, to be spoiled."""
    shutil.copytree(sound / "lake", tmp_path / "lake")
    return Settings(data_dir=tmp_path)


def levels(settings: Settings, now_ms: int = NOW_MS, **options: Any) -> dict[str, str]:
    """The checks that found something, with their level; an error refuses."""
    outcome = check_data(settings, now_ms=lambda: now_ms, **options)
    found = {one["name"]: one["level"] for one in outcome.document["checks"]}
    assert isinstance(outcome.error, DataRefused) == ("error" in found.values())
    return {name: level for name, level in found.items() if level != "ok"}


def test_a_sound_lake_passes_every_check(settings: Settings) -> None:
    """All of them, with figures."""
    outcome = check_data(settings, now_ms=lambda: NOW_MS)
    assert outcome.error is None
    assert [one["name"] for one in outcome.document["checks"]] == list(CHECK_NAMES)
    assert outcome.document["level"] == "ok"
    figures = {one["name"]: one["figures"] for one in outcome.document["checks"]}
    assert figures["skew"] == {"impressions": 4201, "equal": 4201, "history_limit": 200}
    assert figures["labels"]["named"] == 6000
    assert 0 <= figures["drift"]["kind"] < 0.01
    assert figures["volume"]["newest"] == 600
    assert Path(outcome.document["report"]).exists()


def null_ids(settings: Settings) -> None:
    """A Parquet file of another program whose ids are missing."""
    append_foreign(settings, "engagements", [a_row(1), a_row(2)], user_id=None)


def empty_item(settings: Settings) -> None:
    """An empty text is no id either."""
    append_foreign(settings, "catalogue", [an_entry("x", NOW_MS)], item_id="")


def future_times(settings: Settings) -> None:
    """A clock that is days ahead."""
    append_foreign(settings, "engagements", [a_row(1, NOW_MS + 2 * DAY)])


def ancient_times(settings: Settings) -> None:
    """Seconds taken for milliseconds."""
    append_foreign(settings, "engagements", [a_row(1, NOW_MS // 1000)])


def wrong_day(settings: Settings) -> None:
    """A row in the folder of another day."""
    append_foreign(settings, "engagements", [a_row(1)], event_date=date(2020, 1, 1))


def doubled_ids(settings: Settings) -> None:
    """The newest engagements once more, at other places of the log."""
    again = [a_row(1), a_row(2)]
    append_foreign(settings, "engagements", again)
    for row in again:
        row |= {"log_offset": row["log_offset"] + 100, "sequence": row["sequence"] + 100}
    append_foreign(settings, "engagements", again)


def doubled_places(settings: Settings) -> None:
    """Two events at one place of the log."""
    twice = [a_row(1), a_row(2)]
    twice[1]["log_offset"] = twice[0]["log_offset"]
    append_foreign(settings, "engagements", twice)


def early_engagement(settings: Settings) -> None:
    """A click ten minutes before its slate."""
    last = rows().impressions[-1]
    early = a_row(1, last["timestamp_ms"] - 600_000, request_id=last["request_id"])
    early |= {"user_id": last["user_id"], "item_id": last["slate"][0]["item_id"]}
    append_foreign(settings, "engagements", [early])


def unknown_requests(settings: Settings) -> None:
    """Every fifteenth engagement names a request that nobody answered."""
    lost = [a_row(n, request_id=f"lost-{n}") for n in range(400)]
    for n, row in enumerate(lost):
        row |= {"user_id": f"u{n % N_USERS}", "kind": ("click", "view")[n % 2]}
    append_foreign(settings, "engagements", lost)


def impossible_propensity(settings: Settings) -> None:
    """A probability above one."""
    slate = an_impression("nobody", ["i1"], NOW_MS - 5_000, history_version=0)
    slate["slate"][0]["propensity"] = 1.5
    append_foreign(settings, "impressions", [slate | {"log_offset": 10**6}])


def infinite_value(settings: Settings) -> None:
    """A value that no mean survives."""
    append_foreign(settings, "engagements", [a_row(1) | {"value": float("inf")}])


def more_drawn_than_dropped(settings: Settings) -> None:
    """Two dropped candidates drawn from one."""
    slate = an_impression("nobody", ["i1"], NOW_MS - 5_000, (), ["i2", "i3"], history_version=0)
    append_foreign(settings, "impressions", [slate | {"n_dropped": 1, "log_offset": 10**6}])


def skewed_history(settings: Settings) -> None:
    """Serving read other items than the log makes."""
    slate = an_impression(
        "u1", ["i1"], NOW_MS - 5_000, history_version=30, history_items=["x"] * 20,
        log_offset=10**6,
    )  # fmt: skip
    append_foreign(settings, "impressions", [slate])


def foreign_column(settings: Settings) -> None:
    """A column that nothing reads."""
    location = f"{settings.lake_location}/engagements"
    extra = pa.table({"mood": ["good"], "event_date": [date(2026, 1, 1)]}).slice(0, 0)
    write_deltalake(location, extra, mode="append", schema_mode="merge")


@pytest.mark.parametrize(
    ("plant", "check", "level"),
    [
        (null_ids, "nulls", "error"),
        (empty_item, "nulls", "error"),
        (future_times, "times", "warning"),
        (ancient_times, "times", "error"),
        (wrong_day, "times", "error"),
        (doubled_ids, "duplicates", "error"),
        (doubled_places, "duplicates", "error"),
        (early_engagement, "labels", "warning"),
        (unknown_requests, "labels", "warning"),
        (impossible_propensity, "ranges", "error"),
        (infinite_value, "ranges", "error"),
        (more_drawn_than_dropped, "ranges", "error"),
        (skewed_history, "skew", "error"),
        (foreign_column, "schema", "warning"),
    ],
)
def test_a_planted_fault_is_found_by_its_check_alone(
    settings: Settings, plant: Callable[[Settings], None], check: str, level: str
) -> None:
    """The others pass; alone it finds the same."""
    plant(settings)
    assert levels(settings) == {check: level}
    assert levels(settings, only=[check]) == {check: level}


def test_a_skew_within_the_tolerance_is_told_and_one_above_it_refuses(settings: Settings) -> None:
    """The setting's zero is the default: one of 4,201 refuses."""
    skewed_history(settings)
    for tolerance, level in ((0.0, "error"), (0.0002, "error"), (0.0003, "warning")):
        checks = settings.checks.model_copy(update={"skew_tolerance": tolerance})
        tolerant = settings.model_copy(update={"checks": checks})
        assert levels(tolerant, only=["skew"]) == {"skew": level}
    report = check_data(settings, now_ms=lambda: NOW_MS, only=["skew"]).document
    assert "1 of 4,201 impressions" in report["checks"][0]["findings"][0]["detail"]


def test_training_on_the_past_makes_histories_of_all_that_had_arrived(settings: Settings) -> None:
    """A client may date its event ahead of the cutoff, and serving read it before."""
    until_ms = NOW_MS - DAY
    ahead = a_row(1, until_ms + 60_000, user_id="ahead")
    ahead["received_at_ms"] = until_ms - 60_000
    slate = an_impression(
        "ahead", ["i1"], until_ms - 30_000, history_version=1, history_items=["i1"],
        log_offset=10**7,
    )  # fmt: skip
    append_foreign(settings, "engagements", [ahead])
    append_foreign(settings, "impressions", [slate])
    report = check_data(settings, now_ms=lambda: NOW_MS, only=["skew"], until_ms=until_ms)
    assert report.document["checks"][0]["figures"]["equal"] > 3_000
    assert report.error is None
    assert set(report.document["checks"][0]["figures"]) == {"impressions", "equal", "history_limit"}


def test_stale_data_is_told_and_at_last_refused(settings: Settings) -> None:
    """Unless training is told to look at the past."""
    assert levels(settings, NOW_MS + 3 * DAY) == {"recency": "warning"}
    assert levels(settings, NOW_MS + 40 * DAY) == {"recency": "error"}
    assert levels(settings, NOW_MS + 40 * DAY, until_ms=NOW_MS) == {}


def test_half_the_usual_volume_is_told(tmp_path: Path) -> None:
    """Though nothing else is wrong."""
    settings = built(tmp_path, rows(last_day_share=0.5))
    assert levels(settings) == {"volume": "warning"}


def test_a_shifted_distribution_is_told(tmp_path: Path) -> None:
    """The newest fifth has other kinds than before."""
    settings = built(tmp_path, rows(late_kinds=("purchase", "click")))
    assert levels(settings) == {"drift": "warning"}
    report = check_data(settings, now_ms=lambda: NOW_MS, only=["drift"]).document
    assert report["checks"][0]["figures"]["kind"] > 0.2
    assert "feature kind has shifted" in report["checks"][0]["findings"][0]["detail"]


def test_drift_is_counted_from_the_previous_training(tmp_path: Path) -> None:
    """What that one learned from already is no drift any more."""
    settings = built(tmp_path, rows(late_kinds=("purchase", "click")))
    trained_ms = NOW_MS - N_DAYS * DAY // 2
    write_report(CheckReport(1, (), "training", trained_ms), settings.data_dir)
    figures = check_data(settings, now_ms=lambda: NOW_MS, only=["drift"]).document["checks"][0]
    assert figures["figures"]["boundary_ms"] == trained_ms


def test_a_column_of_another_type_is_refused(settings: Settings) -> None:
    """The statuses of outcomes as text."""
    location = Path(settings.lake_location) / "outcomes"
    shutil.rmtree(location, ignore_errors=True)
    wrong = complete_rows(
        "outcomes",
        pa.table(
            {"event_id": ["o"], "request_id": ["r"], "timestamp_ms": [NOW_MS], "status": [200]}
        ),
        "timestamp_ms",
    )
    at = wrong.schema.get_field_index("status")
    write_deltalake(location, wrong.set_column(at, "status", pa.array(["200"])))
    assert levels(settings, only=["schema"]) == {"schema": "error"}


def test_training_refuses_with_all_reasons_and_keeps_the_report(settings: Settings) -> None:
    """The report of a refused training is there to be read."""
    null_ids(settings)
    infinite_value(settings)
    interactions = load_interactions(settings.lake_location, settings)
    with open_progress(sys.stderr) as progress, pytest.raises(DataRefused) as refused:
        checked(interactions, settings, progress, "training", now_ms=lambda: NOW_MS)
    assert "without user_id" in str(refused.value)
    assert "no finite number" in str(refused.value)
    assert len(list((settings.data_dir / "reports").iterdir())) == 1


def test_a_training_that_may_begin_has_the_checks_in_its_lineage(settings: Settings) -> None:
    """Level by level, with the report's name."""
    future_times(settings)
    interactions = load_interactions(settings.lake_location, settings)
    with open_progress(sys.stderr) as progress:
        after = checked(interactions, settings, progress, "training", now_ms=lambda: NOW_MS)
    found = after.lineage["data_checks"]
    assert isinstance(found, dict)
    assert found["checks"]["times"] == "warning"
    assert (settings.data_dir / "reports" / found["report"]).exists()
    assert after.lineage["lake_versions"] == interactions.lineage["lake_versions"]


def test_a_lake_that_is_not_there_refuses(tmp_path: Path) -> None:
    """There is nothing to learn from, and it is said once."""
    outcome = check_data(Settings(data_dir=tmp_path), now_ms=lambda: NOW_MS)
    assert isinstance(outcome.error, DataRefused)
    assert str(outcome.error).count("no engagements yet") == 1
    checks = {check["name"]: check for check in outcome.document["checks"]}
    assert [name for name, check in checks.items() if check["level"] == "error"] == ["sizes"]
    assert checks["skew"]["note"] == "no impression to compare yet"


def test_the_sound_lake_is_left_as_it_was(sound: Path) -> None:
    """Checks only read."""
    assert Lake(str(sound / "lake")).open("engagements").version == 1
