"""The embedded event log: positions, what is refused, and what an error says."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from recsys.errors import ConfigError, StoreError
from recsys.events import Engagement, decode_event
from recsys.stores.event_log import SqliteEventLog, partition_of
from recsys.stores.feature_tables import FeatureWriter


def an_engagement(event_id: str, user_id: str = "u1", item_id: str = "i1") -> Engagement:
    """A click."""
    return Engagement(
        event_id=event_id,
        kind="click",
        user_id=user_id,
        item_id=item_id,
        timestamp_ms=1_790_000_000_000,
        received_at_ms=1_790_000_000_000,
        origin="api",
    )


def n_records(log: SqliteEventLog) -> int:
    """Records in all partitions."""
    return sum(log.end_offsets().values())


def test_the_partition_of_a_key_never_changes() -> None:
    """Another partition for the same user would break the order of logs already written."""
    assert [partition_of(key, 4) for key in ("u1", "u2", "ü", "")] == [3, 3, 1, 1]


def test_a_full_disk_stores_nothing_and_says_so(tmp_path: Path) -> None:
    """A batch that does not fit leaves no part behind, and the log works again with room."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 2)
    log.append([an_engagement("first")])
    n_pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
    log._writer.execute(f"PRAGMA max_page_count={n_pages}")
    batch = [an_engagement(f"e{index}", f"u{index}", "i" * 250) for index in range(500)]

    with pytest.raises(StoreError, match=r"log\.sqlite could not be written, the disk is full"):
        log.append(batch)
    assert n_records(log) == 1

    log._writer.execute("PRAGMA max_page_count=100000")
    log.append(batch)
    assert n_records(log) == 501
    log.close()


def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    """Users would move to other partitions and their order would be lost."""
    SqliteEventLog(tmp_path / "log.sqlite", 4).close()
    with pytest.raises(ConfigError, match="was made with 4; set it to 4"):
        SqliteEventLog(tmp_path / "log.sqlite", 8)
    with pytest.raises(ConfigError, match=r"events\.n_partitions is 0"):
        SqliteEventLog(tmp_path / "log.sqlite", 0)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """The mend is in the message, and the file stays as it is."""
    path = tmp_path / "log.sqlite"
    path.write_bytes(b"certainly no database " * 100)
    with pytest.raises(StoreError, match=r"log\.sqlite is not an SQLite database; move it away"):
        SqliteEventLog(path, 4)
    assert path.read_bytes().startswith(b"certainly")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Pages overwritten by something else are found when they are read."""
    path = tmp_path / "log.sqlite"
    log = SqliteEventLog(path, 1)
    log.append([an_engagement(f"e{index}", item_id="i" * 200) for index in range(2000)])
    log.close()
    data = bytearray(path.read_bytes())
    data[16_384:] = b"\xa5" * (len(data) - 16_384)
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"log\.sqlite is damaged"):
        SqliteEventLog(path, 1)


def test_another_stores_file_is_refused(tmp_path: Path) -> None:
    """A path set to the feature store must not get the log's tables."""
    FeatureWriter(tmp_path / "features.sqlite").close()
    with pytest.raises(StoreError, match="is no event log but holds feature store"):
        SqliteEventLog(tmp_path / "features.sqlite", 4)


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    """An older release must not write into a file it does not understand."""
    path = tmp_path / "log.sqlite"
    log = SqliteEventLog(path, 4)
    log._writer.execute("UPDATE meta SET value = '2' WHERE key = 'layout_version'")
    log.close()
    with pytest.raises(StoreError, match="layout version 2, this program reads 1"):
        SqliteEventLog(path, 4)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file stands where the data folder should be."""
    (tmp_path / "var").write_text("")
    with pytest.raises(StoreError, match=r"var/log\.sqlite cannot be opened"):
        SqliteEventLog(tmp_path / "var" / "log.sqlite", 4)


def test_a_log_held_by_another_process_is_said_to_be_held(tmp_path: Path) -> None:
    """The wait for somebody else's transaction ends, with nothing stored."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 4)
    holder = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    log._writer.execute("PRAGMA busy_timeout=1")
    with pytest.raises(StoreError, match="held by another process's transaction"):
        log.append([an_engagement("e1")])
    holder.execute("ROLLBACK")
    holder.close()
    log.append([an_engagement("e1")])
    assert n_records(log) == 1
    log.close()


def test_a_closed_log_says_that_it_is_closed(tmp_path: Path) -> None:
    """Use after close is an error of ours, and no reason to move the file away."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 4)
    log.close()
    with pytest.raises(StoreError, match="open it again"):
        log.append([an_engagement("e1")])


def test_an_event_that_cannot_be_encoded_stores_nothing(tmp_path: Path) -> None:
    """The neighbours of a bad event are not half stored."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 1)
    with pytest.raises(UnicodeEncodeError):
        log.append([an_engagement("e1"), an_engagement("e2", item_id="half \ud800")])
    assert n_records(log) == 0
    log.close()


def test_threads_append_through_one_log_without_gaps(tmp_path: Path) -> None:
    """Every event of every thread is there once, in contiguous offsets."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 2)

    def write(worker: int) -> None:
        for index in range(10):
            log.append([an_engagement(f"{worker}-{index}-{n}", f"u{n}") for n in range(5)])

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [record for partition in (0, 1) for record in log.read(partition, 0, 1000)]
    assert len({decode_event(record.value).event_id for record in records}) == 200
    for partition, end in log.end_offsets().items():
        assert [r.offset for r in records if r.partition == partition] == list(range(end))
    log.close()
