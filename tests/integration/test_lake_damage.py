"""A lake that was tampered with, damaged, or has no space left says so, and mends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import StoreError
from recsys.stores.log.event_log import SqliteEventLog
from tests.lake_events import (
    an_archiver,
    lake_rows,
    some_events,
    sqlite_settings,
    turn_all,
)
from train_app.lake.archiving.ingest import run_ingest
from train_app.lake.lake_rows import log_mark
from train_app.lake.lake_schema import LOG_TABLES
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake

pytestmark = pytest.mark.integration


def a_lake(folder: Path, n_rounds: int = 20) -> tuple[SqliteEventLog, Lake]:
    """A whole lake of a few events."""
    log = SqliteEventLog(folder / "events.sqlite", 2)
    log.append(some_events(n_rounds))
    turn_all(an_archiver(log, folder, sqlite_settings(folder)))
    lake = Lake(str(folder / "lake"))
    assert check_lake(lake, log).problems == []
    return log, lake


def rewrite(folder: Path, table: str, change: str) -> None:
    """Change the rows of one data file and mend the commit's account of its size, as a thief would.

    Args:
        change: `drop` leaves a row out, `double` repeats one, `shift` moves one to a far offset.
    """
    file = sorted((folder / "lake" / table).rglob("part-*.parquet"))[0]
    # Not read as a dataset: the folder's name would become a column.
    rows = pq.ParquetFile(file).read()
    if change == "drop":
        rows = rows.slice(1)
    elif change == "double":
        rows = pa.concat_tables([rows, rows.slice(0, 1)])
    else:
        offsets = rows["log_offset"].to_pylist()
        moved = pa.array([offsets[0] + 1_000, *offsets[1:]], pa.int64())
        at = rows.schema.get_field_index("log_offset")
        rows = rows.set_column(at, rows.schema.field(at), moved)
    pq.write_table(rows, file)
    for commit in (folder / "lake" / table / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            if action.get("add", {}).get("path", "").endswith(file.name):
                action["add"]["size"] = file.stat().st_size
        commit.write_text("\n".join(map(json.dumps, actions)))


@pytest.mark.parametrize(
    ("change", "found"),
    [("drop", "are in no table"), ("double", "more than once"), ("shift", "past its mark")],
)
@pytest.mark.parametrize("table", ["engagements", "impressions", "catalogue"])
def test_a_row_taken_out_doubled_or_moved_is_found(
    tmp_path: Path, table: str, change: str, found: str
) -> None:
    """Though the commit agrees with the file."""
    log, lake = a_lake(tmp_path, 6)
    rewrite(tmp_path, table, change)
    problems = check_lake(lake, log).problems
    assert any(found in problem for problem in problems), problems


def test_a_mark_that_skips_records_is_found(tmp_path: Path) -> None:
    """An archiver that only pretended to have read some of the log."""
    log, lake = a_lake(tmp_path, 6)
    end = log.end_offsets()[0]
    log.append(some_events(6, first=6))
    for name in LOG_TABLES:
        table = lake.open(name)
        with lake.append(table) as append:
            append.commit({log_mark(0): (end, end + 3)}, {})
    turn_all(an_archiver(log, tmp_path, sqlite_settings(tmp_path)))
    (problem,) = check_lake(lake, log).problems
    assert f"partition 0: 3 offsets are in no table and not noted as skipped: {end}" in problem


@pytest.mark.parametrize("damage", ["truncated", "missing", "overwritten"])
def test_a_damaged_data_file_is_named_with_the_mend(tmp_path: Path, damage: str) -> None:
    """Checking says which file; the archiver goes on appending."""
    log, lake = a_lake(tmp_path, 6)
    file = sorted((tmp_path / "lake" / "impressions").rglob("part-*.parquet"))[0]
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"x" * 1000)
    with pytest.raises(StoreError, match=f"{file.name}.*damaged or missing"):
        check_lake(lake, log)
    log.append(some_events(3, first=6))
    assert turn_all(an_archiver(log, tmp_path, sqlite_settings(tmp_path))) == 9


def test_a_missing_commit_is_named_with_the_mend(tmp_path: Path) -> None:
    """A table whose log has a hole is refused, and moving it away brings it back from the log."""
    log, lake = a_lake(tmp_path, 6)
    log.append(some_events(3, first=6))
    settings = sqlite_settings(tmp_path)
    turn_all(an_archiver(log, tmp_path, settings))
    (tmp_path / "lake" / "impressions" / "_delta_log" / f"{1:020}.json").unlink()
    with pytest.raises(StoreError, match=r"impressions.*damaged or missing.*train_app ingest"):
        check_lake(lake, log)
    (tmp_path / "lake" / "impressions").rename(tmp_path / "aside")
    log.close()
    assert run_ingest(settings).n_rows["impressions"] == 9
    assert check_lake(lake).problems == []


PROGRAM = """
import resource, signal, sys
from pathlib import Path
from recsys.errors import StoreError
from recsys.stores.log.event_log import SqliteEventLog
from tests.lake_events import an_archiver, sqlite_settings
folder = Path(sys.argv[1])
log = SqliteEventLog(folder / "events.sqlite", 2)
archiver = an_archiver(log, folder, sqlite_settings(folder))
archiver.lag([0, 1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    archiver.bring_in([0, 1])
except StoreError as error:
    print(error)
"""


def test_without_space_the_archiver_says_so_and_mends_itself(tmp_path: Path) -> None:
    """Files may grow to 2 KB only: nothing is committed by halves, and later everything is."""
    log, lake = a_lake(tmp_path, 6)
    log.append(some_events(400, first=6))

    command = [sys.executable, "-B", "-c", PROGRAM, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "could not write lake table" in found.stdout, found.stderr
    assert "free space" in found.stdout
    assert check_lake(lake).problems == []
    data = set((tmp_path / "lake" / "engagements").rglob("part-*.parquet"))
    table = lake.find("engagements")
    assert table is not None
    assert data == {Path(file) for file in table.files()}
    turn_all(an_archiver(log, tmp_path, sqlite_settings(tmp_path)))
    assert check_lake(lake, log).problems == []
    assert len(lake_rows(tmp_path, "engagements", "event_id")) == 406


def test_opening_stays_fast_after_many_commits(tmp_path: Path) -> None:
    """Checkpoints bound what has to be read."""
    lake = Lake(str(tmp_path / "lake"))
    table = lake.open("outcomes")
    for n in range(250):
        with lake.append(table) as append:
            append.commit({"log-0": (n or None, n + 1)}, {})
        table.refresh()
    assert len(list((tmp_path / "lake").rglob("*.checkpoint.parquet"))) >= 2
    began_s = time.process_time()
    found = lake.find("outcomes")
    assert found is not None
    assert found.mark("log-0") == 250
    assert time.process_time() - began_s < 1.0
