"""A large file: memory stays bounded, and a killed import is completed by the next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from train_app.lake.lake_tables import Lake

N_ROWS = 800_000
MAX_RSS_MB = 1_000
IMPORT = """
import json, sys
from pathlib import Path
from recsys.settings import Settings
from train_app.importing.import_history import ImportOptions, run_import

def progress(stage, done, total):
    print(stage, flush=True)

report = run_import(ImportOptions(Path(sys.argv[1])), Settings(data_dir=sys.argv[2]), progress)
# Not ru_maxrss: that counts what this process was before it became this program.
peak = next(line for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
rss_mb = int(peak.split()[1]) // 1024
print(json.dumps({**report.as_dict(), "rss_mb": rss_mb}))
"""

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def large_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distinct engagements of 2,000 users over half a year, in no order."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("large") / "events.csv"
    table = pa.table(
        {
            "user": pa.array(rng.integers(0, 2_000, N_ROWS)),
            "item": pa.array(rng.integers(0, 20_000, N_ROWS)),
            "time": pa.array(1_600_000_000 + rng.permutation(N_ROWS) * 20),
        }
    )
    pa_csv.write_csv(table, path)
    return path


def start(source: Path, data_dir: Path) -> subprocess.Popen[str]:
    """An import in a process of its own, which prints its stages and then its report."""
    command = [sys.executable, "-c", IMPORT, str(source), str(data_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def count_rows(data_dir: Path) -> tuple[int, int]:
    """Rows and distinct event ids in the lake."""
    table = Lake(str(data_dir / "lake")).find("engagements")
    if table is None:
        return 0, 0
    connection = duckdb.connect()
    table.attach(connection, "rows")
    query = connection.sql("SELECT count(*), count(DISTINCT event_id) FROM rows")
    n_rows, n_ids = query.fetchall()[0]
    return int(n_rows), int(n_ids)


def test_a_killed_import_leaves_nothing_visible_and_the_next_completes_it(
    large_csv: Path, tmp_path: Path
) -> None:
    """Killed while it writes; then run again, within bounded memory and few files."""
    killed = start(large_csv, tmp_path)
    assert killed.stdout is not None
    with killed:
        for line in killed.stdout:
            if line.strip() == "write":
                killed.kill()
                break
    assert count_rows(tmp_path) == (0, 0)
    with start(large_csv, tmp_path) as again:
        assert again.stdout is not None
        report = json.loads(again.stdout.readlines()[-1])
    assert again.returncode == 0
    assert report["n_new"] == N_ROWS
    assert count_rows(tmp_path) == (N_ROWS, N_ROWS)
    assert report["rss_mb"] < MAX_RSS_MB
    assert not (tmp_path / "tmp").exists()
    table = Lake(str(tmp_path / "lake")).find("engagements")
    assert table is not None
    assert len(table.files()) <= 192
