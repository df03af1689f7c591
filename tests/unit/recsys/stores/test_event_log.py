"""The embedded event log: positions, what is refused, what an error says, and damage set aside."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from recsys.errors import ConfigError, StoreError
from recsys.events import Engagement, decode_event
from recsys.stores.log.event_log import SqliteEventLog, partition_of
from recsys.stores.log.reserved_offsets import BLOCK, ReservedOffsets
from recsys.stores.sqlite_file import Layout, open_writable, set_aside


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
    n_pages = log._file.writer.execute("PRAGMA page_count").fetchone()[0]
    log._file.writer.execute(f"PRAGMA max_page_count={n_pages}")
    batch = [an_engagement(f"e{index}", f"u{index}", "i" * 250) for index in range(500)]

    with pytest.raises(StoreError, match=r"log\.sqlite could not be written, the disk is full"):
        log.append(batch)
    assert n_records(log) == 1

    log._file.writer.execute("PRAGMA max_page_count=100000")
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
    layout = Layout("feature store", 1, (), 4096, "rebuild it", "NORMAL")
    open_writable(tmp_path / "features.sqlite", layout).close()
    with pytest.raises(StoreError, match="is no event log but holds feature store"):
        SqliteEventLog(tmp_path / "features.sqlite", 4)


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    """An older release must not write into a file it does not understand."""
    path = tmp_path / "log.sqlite"
    log = SqliteEventLog(path, 4)
    log._file.writer.execute("UPDATE meta SET value = '2' WHERE key = 'layout_version'")
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
    log._file.writer.execute("PRAGMA busy_timeout=1")
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


def spoil(path: Path) -> None:
    """Write something else over a log's file, all but its first page."""
    data = bytearray(path.read_bytes())
    data[16_384:] = b"\xa5" * (len(data) - 16_384)
    path.write_bytes(bytes(data))


def test_the_writer_sets_a_damaged_file_aside_and_begins_anew(tmp_path: Path) -> None:
    """Serving goes on; the old file is kept, and no offset is given out twice."""
    path = tmp_path / "log.sqlite"
    log = SqliteEventLog(path, 2)
    log.append([an_engagement(f"e{n}", f"u{n}", "i" * 200) for n in range(2_000)])
    old_ends = log.end_offsets()
    log.close()
    spoil(path)
    with pytest.raises(StoreError, match="is damaged"):
        SqliteEventLog(path, 2)

    fresh = SqliteEventLog(path, 2, sets_aside=True)
    assert fresh.n_set_aside == 1
    (aside,) = tmp_path.glob("log.sqlite.corrupt-*")
    assert aside.stat().st_size > 400_000
    begins = fresh.begin_offsets()
    assert begins == fresh.end_offsets()
    assert all(begins[partition] >= old_ends[partition] for partition in begins)
    (position,) = fresh.append([an_engagement("e1", "u1")])
    assert position.offset == begins[position.partition]
    assert [r.offset for r in fresh.read(position.partition, 3, 10)] == [position.offset]
    fresh.close()
    again = SqliteEventLog(path, 2, sets_aside=True)
    assert (again.n_set_aside, n_records(again)) == (0, sum(begins.values()) + 1)
    again.close()


@pytest.mark.parametrize("content", [b"certainly no database " * 5000, b"x" * 600])
def test_what_is_no_database_is_set_aside_too(tmp_path: Path, content: bytes) -> None:
    """Without reservations the new offsets begin past all that a file of that size could hold."""
    path = tmp_path / "log.sqlite"
    path.write_bytes(content)
    log = SqliteEventLog(path, 1, sets_aside=True)
    assert log.begin_offsets()[0] > len(content) // 100
    log.append([an_engagement("e1")])
    log.close()
    (aside,) = tmp_path.glob("log.sqlite.corrupt-*")
    assert aside.read_bytes() == content


def test_a_log_that_vanished_begins_past_its_old_offsets(tmp_path: Path) -> None:
    """A follower that had read the old log sees a gap and not other records in their place."""
    path = tmp_path / "log.sqlite"
    log = SqliteEventLog(path, 1)
    log.append([an_engagement(f"e{n}") for n in range(5)])
    log.close()
    for name in ("log.sqlite", "log.sqlite-wal", "log.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    log = SqliteEventLog(path, 1)
    assert log.append([an_engagement("new")])[0].offset == BLOCK
    log.close()


def test_every_offset_is_reserved_before_it_is_given_out(tmp_path: Path) -> None:
    """Also where two processes append in turn, and where the file of reservations is spoiled."""
    path = tmp_path / "log.sqlite"
    first, second = SqliteEventLog(path, 1), SqliteEventLog(path, 1)
    for turn in range(3):
        for number, log in enumerate((first, second)):
            log.append([an_engagement(f"{turn}-{number}-{n}") for n in range(600)])
            reserved = ReservedOffsets(tmp_path / "log.sqlite.reserved").load()
            assert log.end_offsets()[0] <= reserved[0] <= log.end_offsets()[0] + BLOCK
        if turn == 1:
            (tmp_path / "log.sqlite.reserved").write_text("no reservation")
            second.append([an_engagement(f"fill-{n}") for n in range(BLOCK)])
    first.close()
    second.close()


def test_a_process_that_has_the_old_file_open_goes_over_to_the_new_one(tmp_path: Path) -> None:
    """What it acknowledges afterwards is where every reader looks."""
    path = tmp_path / "log.sqlite"
    other, follower = SqliteEventLog(path, 1), SqliteEventLog(path, 1)
    other.append([an_engagement("old")])
    assert len(follower.read(0, 0, 10)) == 1
    set_aside(path, 1_790_000_000_000)
    replacing = SqliteEventLog(path, 1, sets_aside=True)
    (position,) = other.append([an_engagement("new")])
    assert position.offset == BLOCK
    for log in (other, follower, replacing):
        assert [r.event_id for r in log.read(0, 0, 10)] == ["new"]
        assert log.end_offsets() == {0: BLOCK + 1}
        log.close()


def test_damage_met_while_running_is_set_aside_by_the_writer(tmp_path: Path) -> None:
    """The append that met it is stored in the fresh log."""
    path = tmp_path / "log.sqlite"
    log = SqliteEventLog(path, 1, sets_aside=True)
    log.append([an_engagement(f"e{n}", item_id="i" * 200) for n in range(2_000)])
    log._file.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    log._file.writer.execute("PRAGMA shrink_memory").fetchall()
    spoil(path)
    (position,) = log.append([an_engagement("after")])
    assert position.offset >= 2_000
    assert log.n_set_aside == 1
    assert [r.event_id for r in log.read(0, position.offset, 10)] == ["after"]
    log.close()
