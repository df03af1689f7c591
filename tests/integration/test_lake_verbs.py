"""The lake's verbs, as a person or a script meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog
from tests.lake_events import some_events
from train_app.__main__ import main

pytestmark = pytest.mark.integration


def a_settings_file(folder: Path, **lake: object) -> Path:
    """Settings of a log and a lake under `folder`."""
    settings = Settings.model_validate({"data_dir": folder / "var", "lake": lake})
    path = folder / "settings.json"
    path.write_text(settings.model_dump_json())
    return path


def run(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """One verb: exit code, standard output, standard error."""
    code = main([words[0], "--settings", str(path), *words[1:]])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_lake_is_checked_compacted_and_looked_back_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The round of an operator, and what is said where something is wrong."""
    path = a_settings_file(tmp_path, compact_files=1)
    assert run(path, capsys, "lake-history") == (0, "the lake has no tables yet\n", "")
    log = SqliteEventLog(tmp_path / "var" / "events.sqlite", 4)
    for n in range(3):
        log.append(some_events(3, first=3 * n))
        assert run(path, capsys, "ingest")[0] == 0
    code, out, err = run(path, capsys, "lake-check", "--json")
    document = json.loads(out)
    assert (code, err, document["is_whole"], document["lag"]) == (0, "", True, 0)
    assert document["tables"]["engagements"]["n_rows"] == 9
    assert sum(part["n_rows"] for part in document["partitions"].values()) == 27
    assert "whole: every offset is accounted for once" in run(path, capsys, "lake-check")[1]
    compacted = json.loads(run(path, capsys, "lake-compact", "--vacuum", "--json")[1])
    assert compacted["n_removed"] > compacted["n_added"] > 0
    assert compacted["retention"]["n_files"]["engagements"] == 0
    changes = json.loads(run(path, capsys, "lake-history", "engagements", "--json")[1])["changes"]
    assert [change["by"] for change in changes].count("compaction") > 0
    assert sum(change["n_rows"] or 0 for change in changes) == 9
    assert run(path, capsys, "lake-history", "nothing")[0] == 2
    (victim, *_) = sorted((tmp_path / "var" / "lake" / "catalogue").rglob("part-*.parquet"))
    victim.write_bytes(b"")
    code, _, err = run(path, capsys, "lake-check")
    assert (code, "catalogue" in err, "restore it from a backup" in err) == (1, True, True)


def test_a_lake_that_is_not_whole_ends_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is on standard output, the sentence on standard error."""
    path = a_settings_file(tmp_path)
    log = SqliteEventLog(tmp_path / "var" / "events.sqlite", 4)
    log.append(some_events(3))
    assert run(path, capsys, "ingest")[0] == 0
    log.close()
    for suffix in ("", "-wal", "-shm", ".reserved"):
        (tmp_path / "var" / f"events.sqlite{suffix}").unlink(missing_ok=True)
    SqliteEventLog(tmp_path / "var" / "events.sqlite", 4).close()
    code, out, err = run(path, capsys, "lake-check")
    assert code == 1
    assert "but the log ends at 0" in out
    assert err.startswith("error: the lake")


def test_cluster_lake_passes_on_what_the_job_says(tmp_path: Path) -> None:
    """The operator's command runs the job as a child, with its exit code and its one document."""
    config = tmp_path / "settings.toml"
    config.write_text(f'data_dir = "{tmp_path / "var"}"\n')
    command = [sys.executable, "-m", "cluster", "--config", str(config), "--json", "lake"]
    checked = subprocess.run([*command, "check"], capture_output=True, text=True, check=True)
    assert json.loads(checked.stdout)["is_whole"] is True
    assert checked.stderr == ""
    looked = subprocess.run([*command, "history", "nothing"], capture_output=True, text=True)
    assert (looked.returncode, looked.stdout) == (2, "")
    assert looked.stderr.startswith("error: the lake has no table 'nothing'")


def test_a_gap_is_an_error_until_somebody_acknowledges_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then it is printed with who and why, and only a new one ends with exit code 1."""
    path = a_settings_file(tmp_path)
    log = SqliteEventLog(tmp_path / "var" / "events.sqlite", 4)
    log.append(some_events(3))
    assert run(path, capsys, "ingest")[0] == 0
    log.append(some_events(3, first=3))
    for partition, end in log.end_offsets().items():
        log.trim(partition, end)
    log.append(some_events(3, first=6))
    assert run(path, capsys, "ingest")[0] == 0
    code, out, err = run(path, capsys, "lake-check")
    assert (code, "lost: " in out, "--acknowledge-gaps REASON" in err) == (1, True, True)
    assert run(path, capsys, "lake-check", "--acknowledge-gaps", "trimmed too early")[0] == 0
    code, out, err = run(path, capsys, "lake-check", "--json")
    document = json.loads(out)
    assert (code, err, document["unacknowledged_gaps"]) == (0, "", {})
    assert {gap["reason"] for gap in document["acknowledged_gaps"]} == {"trimmed too early"}
    assert document["n_lost"] == sum(
        gap["end_offset"] - gap["first_offset"] for gap in document["acknowledged_gaps"]
    )
    log.append(some_events(3, first=9))
    for partition, end in log.end_offsets().items():
        log.trim(partition, end)
    log.append(some_events(3, first=12))
    assert run(path, capsys, "ingest")[0] == 0
    assert run(path, capsys, "lake-check")[0] == 1
    log.close()
