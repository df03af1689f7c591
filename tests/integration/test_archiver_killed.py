"""Archivers killed at any moment, two at once, lose nothing and double nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys.stores.log.event_log import SqliteEventLog
from tests.lake_events import an_archiver, lake_rows, some_events, sqlite_settings, turn_all
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake

pytestmark = pytest.mark.integration

N_KILLS = 8
PROGRAM = """
import sys
from pathlib import Path
from recsys.stores.log.event_log import SqliteEventLog
from tests.lake_events import an_archiver, sqlite_settings, turn_all
folder = Path(sys.argv[1])
log = SqliteEventLog(folder / "events.sqlite", 2)
archiver = an_archiver(log, folder, sqlite_settings(folder, commit_records=20))
print("ready", flush=True)
while True:
    archiver.bring_in([0, 1])
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    """An archiver of all partitions, at work."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", process.stderr and process.stderr.read()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it as the system would, without a last word."""
    process.kill()
    process.communicate()


def test_two_archivers_killed_at_random_leave_every_record_once(tmp_path: Path) -> None:
    """New events come all the while; what the dead left behind is completed, not repeated."""
    rng = random.Random(4)
    log = SqliteEventLog(tmp_path / "events.sqlite", 2)
    log.append(some_events(100))
    running = [start(tmp_path), start(tmp_path)]
    try:
        for kill in range(N_KILLS):
            log.append(some_events(40, first=100 + 40 * kill))
            deadline_s = time.monotonic() + rng.uniform(0.0, 0.6)
            while time.monotonic() < deadline_s:
                assert [process.poll() for process in running] == [None, None]
            end(running.pop(0))
            running.append(start(tmp_path))
    finally:
        for process in running:
            end(process)
    settings = sqlite_settings(tmp_path)
    turn_all(an_archiver(log, tmp_path, settings))
    report = check_lake(Lake(str(tmp_path / "lake")), log)
    assert (report.problems, report.lag, report.n_lost) == ([], 0, 0)
    n_rounds = 100 + 40 * N_KILLS
    for table, prefix in (("engagements", "e"), ("impressions", "p"), ("catalogue", "c")):
        assert lake_rows(tmp_path, table, "event_id") == sorted(
            f"{prefix}{n}" for n in range(n_rounds)
        )
