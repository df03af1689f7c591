"""Compaction, retention and trimming keep everything that somebody may still read."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable

from recsys.bundles.bundle import write_manifest
from recsys.bundles.registry import Registry
from recsys.data_settings import LakeSettings
from recsys.errors import StoreError
from recsys.stores.log.event_log import SqliteEventLog
from tests.lake_events import (
    NOW_MS,
    ManualClock,
    an_archiver,
    an_engagement,
    lake_rows,
    some_events,
    sqlite_settings,
    turn_all,
)
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.compaction import compact_lake, file_sizes
from train_app.lake.upkeep.lake_check import check_lake
from train_app.lake.upkeep.lake_history import read_history
from train_app.lake.upkeep.lake_retention import pinned_versions, vacuum_lake
from train_app.lake.upkeep.lake_upkeep import TRIM_EVERY_S, LakeUpkeep

pytestmark = pytest.mark.integration


def a_crowded_lake(folder: Path, n_commits: int = 12) -> tuple[SqliteEventLog, Lake]:
    """A lake of many small commits."""
    log = SqliteEventLog(folder / "events.sqlite", 2)
    archiver = an_archiver(log, folder, sqlite_settings(folder))
    for n in range(n_commits):
        log.append(some_events(2, first=2 * n))
        turn_all(archiver)
    return log, Lake(str(folder / "lake"))


def a_bundle(folder: Path, lineage: dict[str, object]) -> Path:
    """A bundle's directory that says what it learned from, and little else."""
    folder.mkdir()
    for name in ("user_tower", "item_tower", "item_vectors"):
        (folder / f"{name}.safetensors").write_bytes(b"weights")
    write_manifest(
        folder, bundle_id="b1", created_at=datetime(2026, 1, 1, tzinfo=UTC), feature_schema={},
        feature_schema_hash="4e1c", actions=("view",), n_items=1, n_shards=1, embedding_dim=8,
        lineage=lineage, metrics={},
    )  # fmt: skip
    return folder


def rows_at(lake: Lake, name: str, version: int) -> int:
    """The rows of a table at a version, read from its files."""
    table = lake.find(name, version)
    assert table is not None
    connection = duckdb.connect()
    table.attach(connection, "rows")
    return int(connection.execute("SELECT count(*) FROM rows").fetchall()[0][0])


def test_crowded_days_are_rewritten_and_hold_the_same(tmp_path: Path) -> None:
    """Two days of each event table become one file each; the others are left alone."""
    log, lake = a_crowded_lake(tmp_path)
    before = lake_rows(tmp_path, "impressions", "*")
    report = compact_lake(lake, LakeSettings(compact_files=3))
    assert {name: len(days) for name, days in report.days.items()} == {
        "engagements": 2, "impressions": 2, "catalogue": 2,
    }  # fmt: skip
    assert (report.n_removed, report.n_added) == (72, 6)
    table = lake.find("impressions")
    assert table is not None
    assert {day: len(sizes) for day, sizes in file_sizes(table).items()} == {
        "2023-11-13": 1, "2023-11-14": 1,
    }  # fmt: skip
    assert lake_rows(tmp_path, "impressions", "*") == before
    assert check_lake(lake, log).problems == []
    assert compact_lake(lake, LakeSettings(compact_files=3)).n_removed == 0
    assert read_history(lake, "impressions", 1)[0].by == "compaction"


def test_appends_go_on_while_days_are_rewritten(tmp_path: Path) -> None:
    """Neither fails, and nothing is lost or doubled."""
    log, lake = a_crowded_lake(tmp_path, 4)
    archiver = an_archiver(log, tmp_path, sqlite_settings(tmp_path))
    done = threading.Event()
    failures: list[Exception] = []

    def compact() -> None:
        try:
            while not done.is_set():
                compact_lake(lake, LakeSettings(compact_files=2))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=compact)
    thread.start()
    try:
        for n in range(8):
            log.append(some_events(2, first=100 + 2 * n))
            turn_all(archiver)
    finally:
        done.set()
        thread.join()
    assert (failures, archiver.n_fenced) == ([], 0)
    assert check_lake(lake, log).problems == []
    assert len(lake_rows(tmp_path, "engagements", "event_id")) == 24


def test_a_version_that_a_bundle_names_survives_the_vacuum(tmp_path: Path) -> None:
    """Its files and its commits stay however old, others go; broken bundles stop everything."""
    log, lake = a_crowded_lake(tmp_path)
    registry = Registry(str(tmp_path / "bundles"))
    table = lake.find("engagements")
    assert table is not None
    pinned = table.version - 5
    n_rows = rows_at(lake, "engagements", pinned)
    lineage = {"lake_versions": {"engagements": pinned, "catalogue": 99_999}}
    registry.publish(a_bundle(tmp_path / "staging", lineage))
    compact_lake(lake, LakeSettings(compact_files=3))
    report = vacuum_lake(lake, pinned_versions(registry), 0.0)
    assert (report.pinned["engagements"], report.lost) == ([pinned], {"catalogue": [99_999]})
    assert report.n_files["engagements"] > 0
    assert rows_at(lake, "engagements", pinned) == n_rows
    assert check_lake(lake, log).problems == []
    with pytest.raises(duckdb.IOException, match="No files found"):
        rows_at(lake, "impressions", 3)
    (manifest,) = (tmp_path / "bundles").glob("*/manifest.json")
    manifest.write_text("{")
    with pytest.raises(StoreError, match="nothing is deleted"):
        pinned_versions(registry)


def test_old_commits_go_once_no_version_needs_them(tmp_path: Path) -> None:
    """Opening stays fast by checkpoints; the table and its marks stay what they were."""
    log, lake = a_crowded_lake(tmp_path, 3)
    archiver = an_archiver(log, tmp_path, sqlite_settings(tmp_path))
    log_folder = tmp_path / "lake" / "outcomes" / "_delta_log"
    outcomes = lake.find("outcomes")
    assert outcomes is not None
    outcomes.delta.create_checkpoint()
    first = sorted(log_folder.glob("*.checkpoint.parquet"))
    log.append([an_engagement(f"x{n}") for n in range(3)])
    turn_all(archiver)
    long_ago_s = time.time() - 10 * 86_400
    for file in log_folder.iterdir():
        os.utime(file, (long_ago_s, long_ago_s))
    report = vacuum_lake(lake, {}, 7.0)
    assert report.n_log_files["outcomes"] > 0
    assert first[0].exists()
    assert check_lake(lake, log).problems == []
    assert DeltaTable(str(tmp_path / "lake" / "outcomes")).version() >= outcomes.version


def test_the_embedded_log_is_trimmed_behind_everybody(tmp_path: Path) -> None:
    """Old records that lake and all other followers have taken go; the lake still checks whole."""
    log = SqliteEventLog(tmp_path / "events.sqlite", 1)
    settings = sqlite_settings(tmp_path)
    old_ms = NOW_MS - settings.events.retention_s * 1000 - 1
    times = [old_ms, old_ms, old_ms, NOW_MS, NOW_MS]
    log.append([an_engagement(f"e{n}", received_at_ms=ms) for n, ms in enumerate(times)])
    lake, clock = Lake(str(tmp_path / "lake")), ManualClock()
    elsewhere = {0: 2}
    upkeep = LakeUpkeep(log, lake, settings, lambda: NOW_MS, clock, lambda: [elsewhere])
    clock.now_s = 2 * TRIM_EVERY_S

    def begin_after() -> int:
        for _ in range(3):
            upkeep.run_once([0])
        clock.now_s += 2 * TRIM_EVERY_S
        return log.begin_offsets()[0]

    assert begin_after() == 0
    turn_all(an_archiver(log, tmp_path, settings), [0])
    assert begin_after() == 2
    elsewhere[0] = 5
    assert begin_after() == 3
    assert check_lake(lake, log).problems == []
    assert turn_all(an_archiver(log, tmp_path, settings), [0]) == 0
