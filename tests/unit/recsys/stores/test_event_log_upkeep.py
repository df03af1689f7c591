"""The embedded log's reads in bounded pieces, and what shortens it or takes a person out."""

from __future__ import annotations

from pathlib import Path

from recsys.events import CatalogueChange, Engagement, Event, decode_event
from recsys.stores.log.event_log import MAX_READ_BYTES, SqliteEventLog, partition_of
from recsys.stores.log.log_tables import read_rows
from recsys.stores.log.log_upkeep import PIECE_RECORDS, VOID
from recsys.stores.log.reserved_offsets import BLOCK
from recsys.stores.sqlite_file import set_aside


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


def test_trimming_removes_the_oldest_and_gives_the_room_back(tmp_path: Path) -> None:
    """A reader below the first kept record gets that one; ends and newer records stay."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 2)
    user = next(f"u{n}" for n in range(99) if partition_of(f"u{n}", 2) == 1)
    n_events = 2 * PIECE_RECORDS + 10
    log.append([an_engagement(f"e{n}", user, "i" * 250) for n in range(n_events)])
    n_pages = log._file.writer.execute("PRAGMA page_count").fetchone()[0]

    assert log.trim(1, 2 * PIECE_RECORDS) == 2 * PIECE_RECORDS
    assert log.begin_offsets() == {0: 0, 1: 2 * PIECE_RECORDS}
    assert log.end_offsets() == {0: 0, 1: n_events}
    assert [r.offset for r in log.read(1, 5, 3)] == [2 * PIECE_RECORDS + n for n in range(3)]
    assert log._file.writer.execute("PRAGMA page_count").fetchone()[0] < n_pages
    assert log.trim(1, 2 * PIECE_RECORDS) == log.trim(0, 100) == 0
    assert log.trim(1, n_events + 1_000) == 10
    assert log.begin_offsets() == log.end_offsets()
    assert log.append([an_engagement("next", user)])[0].offset == n_events
    log.close()


def test_a_forgotten_users_records_are_emptied_and_keep_their_place(tmp_path: Path) -> None:
    """Only theirs, only below the offset; offsets and event ids stay, the bytes do not."""
    path = tmp_path / "log.sqlite"
    log = SqliteEventLog(path, 1)
    events: list[Event] = [
        an_engagement(f"e{n}", "secret-person" if n % 3 == 0 else "other") for n in range(1_200)
    ]
    events.append(CatalogueChange(event_id="c", item_id="secret-person", timestamp_ms=1))
    events.append(an_engagement("last", "secret-person"))
    log.append(events)

    assert log.void_user("secret-person", {0: 1_201}) == 400
    assert log.void_user("secret-person", {0: 1_201}) == 0
    records = log.read(0, 0, 10_000)
    assert [(r.offset, r.event_id) for r in records] == list(
        enumerate([event.event_id for event in events])
    )
    for n, record in enumerate(records):
        is_void = n % 3 == 0 and n < 1_200
        assert record.value == VOID if is_void else decode_event(record.value) == events[n]
    stored = log.append([an_engagement("e0", "secret-person")])
    assert stored[0].offset == 0
    log.close()
    on_disk = b"".join(file.read_bytes() for file in tmp_path.glob("log.sqlite*"))
    assert on_disk.count(b"secret-person") <= 2 + 1


def test_one_read_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Large records come in several reads, each with at least one; so they do where one is void."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 1)
    log.append([an_engagement(f"e{n}", item_id="i" * 850_000) for n in range(12)])
    sizes: list[int] = []
    offset = 0
    while records := log.read(0, offset, 100):
        assert [record.offset for record in records] == list(range(offset, offset + len(records)))
        assert sum(len(record.value) for record in records) <= MAX_READ_BYTES
        sizes.append(len(records))
        offset = records[-1].offset + 1
    assert sizes == [9, 3]
    rows = read_rows(log._file.reader, 0, 0, 12, 100, 1)
    assert len(rows) == 1
    assert log.void_user("u1", {0: 11}) == 11
    assert [record.value == VOID for record in log.read(0, 0, 100)] == [True] * 11 + [False]
    log.close()


def test_upkeep_goes_over_to_a_new_file_too(tmp_path: Path) -> None:
    """An object that had the old file open trims and voids where every reader looks."""
    path = tmp_path / "log.sqlite"
    trimming, voiding = SqliteEventLog(path, 1), SqliteEventLog(path, 1)
    voiding.append([an_engagement("old")])
    set_aside(path, 1_790_000_000_000)
    replacing = SqliteEventLog(path, 1, sets_aside=True)
    replacing.append([an_engagement("first"), an_engagement("second")])
    assert voiding.void_user("u1", {0: BLOCK + 2}) == 2
    assert [record.value for record in replacing.read(0, 0, 10)] == [VOID, VOID]
    assert trimming.trim(0, BLOCK + 1) == 1
    assert [record.event_id for record in replacing.read(0, 0, 10)] == ["second"]
    for log in (trimming, voiding, replacing):
        log.close()
