"""Small things around files and ids: leftovers, write-ahead logs, a topic's retention, hashes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from recsys.stores.log.topic_retention import kept_ms
from recsys.stores.spool import leftover_files
from recsys.stores.write_ahead import empty_write_ahead
from recsys.user_hash import user_hash


def test_leftovers_are_told_apart(tmp_path: Path) -> None:
    """What waits, what may be the only copy, and what can be deleted."""
    spool = tmp_path / "spool" / "gateway-1"
    spool.mkdir(parents=True)
    for path in (
        spool / "001000000000.spool",
        spool / "001000000000.read",
        spool / "lock",
        spool / "001000000001.spool.corrupt-20261122T000000",
        spool / "refused.jsonl",
        tmp_path / "events.sqlite",
        tmp_path / "events.sqlite.corrupt-20261122T000000-000",
        tmp_path / "events.sqlite.corrupt-20261122T000000-000-wal",
        tmp_path / "features.sqlite.unusable-1",
    ):
        path.write_bytes(b"12345")
    waiting = leftover_files.spool_files(tmp_path)
    assert [path.name for path in waiting] == ["001000000000.spool"]
    assert leftover_files.size_of([*waiting, tmp_path / "gone"]) == 5
    assert [path.name for path in leftover_files.set_aside_files(tmp_path)] == [
        "events.sqlite.corrupt-20261122T000000-000",
        "001000000001.spool.corrupt-20261122T000000",
        "refused.jsonl",
    ]
    replaceable = leftover_files.replaceable_files(tmp_path)
    assert [path.name for path in replaceable] == ["features.sqlite.unusable-1"]
    assert leftover_files.spool_files(tmp_path / "nowhere") == []


def test_a_write_ahead_log_is_emptied_unless_a_reader_holds_it(tmp_path: Path) -> None:
    """What it held is in the file, and its bytes are gone."""
    path = tmp_path / "store.sqlite"
    wal = tmp_path / "store.sqlite-wal"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (x)")
        writer.execute("INSERT INTO t VALUES ('a name')")
        assert b"a name" in wal.read_bytes()
        assert empty_write_ahead(path)
        assert wal.stat().st_size == 0
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM t").fetchall()
            writer.execute("INSERT INTO t VALUES ('another')")
            assert not empty_write_ahead(path, patience_s=0.1)
        assert empty_write_ahead(path)
    assert empty_write_ahead(tmp_path / "nowhere.sqlite")
    assert not (tmp_path / "nowhere.sqlite").exists()


def test_a_topic_loses_a_record_after_retention_segment_and_delay() -> None:
    """A compacted topic, or one without a limit, keeps it for ever."""

    def configs(policy: str, retention_ms: int) -> dict[str, dict[str, str]]:
        return {
            "cleanup.policy": {"value": policy},
            "retention.ms": {"value": str(retention_ms)},
            "segment.ms": {"value": "1000"},
            "file.delete.delay.ms": {"value": "60000"},
        }

    assert kept_ms(configs("delete", 5_000)) == 66_000
    assert kept_ms(configs("compact,delete", 5_000)) == 66_000
    assert kept_ms(configs("delete", -1)) is None
    assert kept_ms(configs("compact", 5_000)) is None


def test_a_user_hash_is_the_same_everywhere_and_names_nobody() -> None:
    """Two users are told apart, whatever their ids hold."""
    names = {user_hash(user_id) for user_id in ("alice", "bob", "", "\ud800", "x" * 256)}
    assert len(names) == 5
    assert user_hash("alice") == "user-2bd806c97f0e"
