"""What every event log promises; and what the embedded one keeps when processes are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.events import CatalogueChange, Engagement, Event, decode_event
from recsys.stores.event_log import EventLog, LogPosition, SqliteEventLog
from tests.fakes_event_log import MemoryEventLog

N_PARTITIONS = 4

_WRITER = """
import sys
from pathlib import Path
from recsys.stores.event_log import SqliteEventLog
from recsys.events import Engagement

log = SqliteEventLog(Path(sys.argv[1]), 4)
name, n_batches = sys.argv[2], int(sys.argv[3])
for batch in range(n_batches):
    ids = [f"{name}-{batch}-{n}" for n in range(7)]
    log.append([
        Engagement(event_id=event_id, kind="click", user_id=f"u{n}", item_id="i" * 200,
                   timestamp_ms=batch, received_at_ms=batch, origin="api")
        for n, event_id in enumerate(ids)
    ])
    print(" ".join(ids), flush=True)
"""


@pytest.fixture(params=["sqlite", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """An empty log of each implementation."""
    if request.param == "memory":
        yield MemoryEventLog(N_PARTITIONS)
        return
    embedded = SqliteEventLog(tmp_path / "log.sqlite", N_PARTITIONS)
    yield embedded
    embedded.close()


def an_engagement(event_id: str, user_id: str = "u1", value: float | None = None) -> Engagement:
    """A click."""
    return Engagement(
        event_id=event_id,
        kind="click",
        user_id=user_id,
        item_id="i1",
        timestamp_ms=1_790_000_000_000,
        received_at_ms=1_790_000_000_000,
        origin="api",
        value=value,
    )


def everything(log: EventLog) -> list[tuple[LogPosition, Event]]:
    """All records of a log, checked to be contiguous."""
    found: list[tuple[LogPosition, Event]] = []
    for partition, end in log.end_offsets().items():
        records = log.read(partition, 0, end + 10)
        assert [record.offset for record in records] == list(range(end))
        for record in records:
            event = decode_event(record.value)
            assert event.event_id == record.event_id
            found.append((LogPosition(partition, record.offset), event))
    return found


def test_an_empty_log_has_all_its_partitions(log: EventLog) -> None:
    """Followers need every partition before its first record."""
    assert log.end_offsets() == log.begin_offsets() == dict.fromkeys(range(N_PARTITIONS), 0)
    assert log.read(0, 0, 10) == []
    assert log.append([]) == []


def test_append_answers_where_each_event_stands(log: EventLog) -> None:
    """Positions come in the order of the events and lead back to them."""
    events = [an_engagement(f"e{index}", f"u{index % 7}") for index in range(40)]
    positions = log.append(events)
    stored = dict(everything(log))
    assert [stored[position] for position in positions] == events
    assert len(stored) == 40


def test_one_users_events_stay_in_one_partition_in_order(log: EventLog) -> None:
    """The order of arrival of a user survives, over several appends."""
    for batch in range(5):
        log.append([an_engagement(f"{batch}-{n}", f"u{n % 3}") for n in range(9)])
    for user in range(3):
        mine = [(p, e) for p, e in everything(log) if getattr(e, "user_id", "") == f"u{user}"]
        assert len({position.partition for position, _ in mine}) == 1
        wanted = [f"{batch}-{n}" for batch in range(5) for n in range(9) if n % 3 == user]
        assert [event.event_id for _, event in mine] == wanted


def test_the_same_event_id_counts_once(log: EventLog) -> None:
    """In one append, in a later one, and even under another user: the first one stays."""
    first = log.append([an_engagement("a"), an_engagement("b"), an_engagement("a", value=2.0)])
    again = log.append(
        [an_engagement("c"), an_engagement("a", "somebody else"), an_engagement("b")]
    )
    assert first[0] == first[2] == again[1]
    assert first[1] == again[2]
    stored = [event for _, event in everything(log)]
    assert sorted(event.event_id for event in stored) == ["a", "b", "c"]
    assert next(event for event in stored if event.event_id == "a") == an_engagement("a")


def test_catalogue_changes_are_kept_by_item(log: EventLog) -> None:
    """An item's put and delete keep their order."""
    put = CatalogueChange(event_id="p", item_id="i9", timestamp_ms=1, title="ü")
    delete = CatalogueChange(event_id="d", item_id="i9", timestamp_ms=2, deleted=True)
    positions = log.append([put, delete])
    assert positions[0].partition == positions[1].partition
    assert positions[0].offset + 1 == positions[1].offset
    assert dict(everything(log))[positions[0]] == put


def test_read_starts_at_the_offset_and_keeps_to_the_limit(log: EventLog) -> None:
    """A follower pages through a partition without a gap or an overlap."""
    position = log.append([an_engagement(f"e{index}") for index in range(25)])[0]
    seen = []
    while page := log.read(position.partition, len(seen), 10):
        assert len(page) <= 10
        seen += [record.event_id for record in page]
    assert seen == [f"e{index}" for index in range(25)]
    other = (position.partition + 1) % N_PARTITIONS
    assert log.read(other, 0, 10) == []


def test_ids_of_any_characters_are_kept_apart(log: EventLog) -> None:
    """Event ids are the client's: NUL, quotes, and letters of every script are just characters."""
    ids = ["a\x00b", "a\x00c", "a", "A", "ä", "a\u0308", "'\"; --", "😀" * 64]
    log.append([an_engagement(event_id) for event_id in ids])
    log.append([an_engagement(event_id) for event_id in ids])
    assert sorted(event.event_id for _, event in everything(log)) == sorted(ids)


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """SIGKILL at any time: every acknowledged event is there once, in contiguous offsets."""
    path = tmp_path / "log.sqlite"
    acknowledged: list[str] = []
    for life in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), f"life{life}", "100000"],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            acknowledged += [writer.stdout.readline().strip() for _ in range(1 + 9 * life)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]

    log = SqliteEventLog(path, N_PARTITIONS)
    counts = Counter(event.event_id for _, event in everything(log))
    log.close()
    wanted = [event_id for line in acknowledged for event_id in line.split()]
    assert len(wanted) > 6 * 7
    assert [event_id for event_id in wanted if counts[event_id] != 1] == []
    assert max(counts.values()) == 1
    batches = Counter(event_id.rsplit("-", 1)[0] for event_id in counts)
    assert set(batches.values()) == {7}, "a batch was half stored"


def test_processes_that_start_and_append_at_once_lose_nothing(tmp_path: Path) -> None:
    """Several processes make the file together and write without a gap."""
    path = tmp_path / "log.sqlite"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), f"writer{n}", "15"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for writer in writers:
        _, problem = writer.communicate(timeout=60)
        assert writer.returncode == 0, problem
    log = SqliteEventLog(path, N_PARTITIONS)
    counts = Counter(event.event_id for _, event in everything(log))
    log.close()
    assert len(counts) == 3 * 15 * 7
    assert max(counts.values()) == 1
