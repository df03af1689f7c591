"""What every event log promises, on a file, on a real broker and in memory.

Also what stays of it when writing processes are killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from brokers.kafka_cluster import KafkaCluster
from recsys.events import CatalogueChange, Engagement, Event, Forgotten, Impression, decode_event
from recsys.settings import Settings
from recsys.stores.log.event_log import EventLog, LogPosition
from recsys.stores.log.open_log import open_log
from tests.fakes_event_log import MemoryEventLog
from tests.kafka_server import a_kafka_cluster, a_topic, kafka_event_settings

N_PARTITIONS = 4

_WRITER = """
import sys
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.log.open_log import open_log

log = open_log(Settings.model_validate_json(sys.argv[1]))
name, n_batches = sys.argv[2], int(sys.argv[3])
for batch in range(n_batches):
    ids = [f"{name}-{batch}-{n}" for n in range(7)]
    log.append([
        Engagement(event_id=event_id, kind="click", user_id=f"u{n}", item_id="i" * 200,
                   timestamp_ms=batch, received_at_ms=batch, origin="api")
        for n, event_id in enumerate(ids)
    ])
    print(" ".join(ids), flush=True)
log.close()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    """One real broker for all tests of this file."""
    with a_kafka_cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", "kafka"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The settings of an empty log of each implementation that outlives a process."""
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path)
    running = request.getfixturevalue("cluster")
    return Settings(data_dir=tmp_path, events=kafka_event_settings(running, a_topic(running)))


@pytest.fixture(params=["sqlite", "kafka", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """An empty log of each implementation."""
    opened: EventLog
    if request.param == "memory":
        opened = MemoryEventLog(N_PARTITIONS)
    elif request.param == "sqlite":
        opened = open_log(Settings(data_dir=tmp_path))
    else:
        running = request.getfixturevalue("cluster")
        events = kafka_event_settings(running, a_topic(running))
        opened = open_log(Settings(data_dir=tmp_path, events=events))
    yield opened
    opened.close()


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
    """A follower that counts an id once sees the first event of each; a file stores no other."""
    log.append([an_engagement("a"), an_engagement("b"), an_engagement("a", value=2.0)])
    log.append([an_engagement("c"), an_engagement("a", value=3.0), an_engagement("b")])
    first: dict[str, Event] = {}
    for _, event in everything(log):
        first.setdefault(event.event_id, event)
    assert first == {name: an_engagement(name) for name in "abc"}


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
    assert {event.event_id for _, event in everything(log)} == set(ids)


def test_every_sort_of_event_comes_back_as_it_was(log: EventLog) -> None:
    """The value is the event's JSON, whatever it holds; and a user's stay in one partition."""
    impression = Impression(
        event_id="shown",
        request_id="r1",
        user_id="ü",
        timestamp_ms=1,
        bundle_id="b1",
        variant="stable",
        slate=(),
        context={"device": "x" * 50_000},
    )
    events: list[Event] = [
        impression,
        Forgotten(event_id="f", user_id="ü", timestamp_ms=2),
        an_engagement("later", "ü"),
    ]
    positions = log.append(events)
    assert [event for _, event in everything(log)] == events
    assert len({position.partition for position in positions}) == 1


def test_reading_goes_back_and_forth(log: EventLog) -> None:
    """Several followers, each at its own place, and one that begins again."""
    n_events = 300
    positions = log.append([an_engagement(f"e{n}", f"u{n % 9}") for n in range(n_events)])
    by_partition = Counter(position.partition for position in positions)
    for partition, n_records in by_partition.items():
        for offset in (0, n_records - 1, n_records // 2, 0, 1):
            found = log.read(partition, offset, 7)
            wanted = list(range(offset, min(offset + 7, n_records)))
            assert [record.offset for record in found] == wanted
        assert log.read(partition, n_records, 7) == []
        assert log.read(partition, n_records + 1_000, 7) == []
        assert len(log.read(partition, 0, 10_000)) == n_records


def test_what_was_appended_is_read_at_once(log: EventLog) -> None:
    """A follower that had reached the end sees the next record as soon as it is acknowledged."""
    offsets = dict.fromkeys(range(N_PARTITIONS), 0)
    for n in range(30):
        (position,) = log.append([an_engagement(f"e{n}", f"u{n % 5}")])
        assert log.end_offsets()[position.partition] == position.offset + 1
        (record,) = log.read(position.partition, offsets[position.partition], 100)
        assert (record.offset, record.event_id) == (position.offset, f"e{n}")
        offsets[position.partition] = record.offset + 1


def test_threads_append_and_read_through_one_log(log: EventLog) -> None:
    """Every event of every thread is there once, while others read."""

    def write(worker: int) -> None:
        for batch in range(8):
            log.append([an_engagement(f"{worker}-{batch}-{n}", f"u{n}") for n in range(9)])

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    seen: list[str] = []
    offsets = dict.fromkeys(range(N_PARTITIONS), 0)
    while len(seen) < 4 * 8 * 9:
        assert any(thread.is_alive() for thread in threads) or offsets != log.end_offsets()
        for partition in offsets:
            for record in log.read(partition, offsets[partition], 50):
                assert record.offset == offsets[partition]
                offsets[partition] += 1
                seen.append(record.event_id)
    for thread in threads:
        thread.join()
    assert len(set(seen)) == len(seen)
    for worker in range(4):
        mine = [name for name in seen if name.startswith(f"{worker}-") and name.endswith("-3")]
        assert mine == [f"{worker}-{batch}-3" for batch in range(8)]


def test_a_killed_writer_loses_nothing_it_acknowledged(settings: Settings) -> None:
    """SIGKILL at any time: every acknowledged event is there, in contiguous offsets."""
    acknowledged: list[str] = []
    for life in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, settings.model_dump_json(), f"life{life}", "100000"],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            acknowledged += [writer.stdout.readline().strip() for _ in range(1 + 9 * life)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]

    log = open_log(settings)
    counts = Counter(event.event_id for _, event in everything(log))
    log.close()
    wanted = [event_id for line in acknowledged for event_id in line.split()]
    assert len(wanted) > 4 * 7
    assert [event_id for event_id in wanted if counts[event_id] != 1] == []
    assert max(counts.values()) == 1
    if settings.events.backend == "sqlite":
        batches = Counter(event_id.rsplit("-", 1)[0] for event_id in counts)
        assert set(batches.values()) == {7}, "a batch was half stored"


def test_processes_that_start_and_append_at_once_lose_nothing(settings: Settings) -> None:
    """Several processes make the log together and write without a gap."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, settings.model_dump_json(), f"writer{n}", "15"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for writer in writers:
        _, problem = writer.communicate(timeout=60)
        assert writer.returncode == 0, problem
    log = open_log(settings)
    counts = Counter(event.event_id for _, event in everything(log))
    log.close()
    assert len(counts) == 3 * 15 * 7
    assert max(counts.values()) == 1
