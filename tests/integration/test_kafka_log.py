"""The log in Kafka when the broker dies, hangs, is late, forgets, or has another topic."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brokers.kafka_cluster import KafkaCluster
from recsys.data_settings import EventSettings, KafkaSettings
from recsys.errors import ConfigError, StoreError
from recsys.events import Engagement, Event, decode_event
from recsys.settings import Settings
from recsys.stores.log.event_log import PartlyStored
from recsys.stores.log.kafka_log import KafkaEventLog
from recsys.stores.log.open_log import open_log, open_writer_log
from recsys.stores.spool.spooling_log import SpoolingLog
from tests.kafka_server import a_kafka_cluster, a_topic

pytestmark = [
    pytest.mark.integration,
    # See `cluster`.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TIMEOUT_S = 3.0
WAIT_S = 90.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    """One broker; a test that stops it starts it again."""
    with a_kafka_cluster() as running:
        yield running
    with warnings.catch_warnings():
        # The client leaves the sockets of refused connections to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def some_settings(cluster: KafkaCluster, topic: str, folder: Path) -> Settings:
    """A log in a topic, with short waits."""
    kafka = KafkaSettings(
        bootstrap_servers=cluster.bootstrap_servers, topic=topic, delivery_timeout_s=TIMEOUT_S
    )
    return Settings(
        data_dir=folder, events=EventSettings(backend="kafka", n_partitions=4, kafka=kafka)
    )


def clicks(name: str, n_events: int, n_users: int = 5) -> list[Event]:
    """Clicks of several users, numbered."""
    return [
        Engagement(
            event_id=f"{name}-{n:05d}",
            kind="click",
            user_id=f"u{n % n_users}",
            item_id="i1",
            timestamp_ms=n,
            received_at_ms=n,
            origin="api",
        )
        for n in range(n_events)
    ]


def stored(settings: Settings) -> dict[str, list[str]]:
    """The event ids of every user in the log's order, an id at its first place."""
    log = open_log(settings)
    found: dict[str, list[str]] = {}
    try:
        for partition, end in log.end_offsets().items():
            for record in log.read(partition, 0, end):
                event = decode_event(record.value)
                assert isinstance(event, Engagement)
                mine = found.setdefault(event.user_id, [])
                if event.event_id not in mine:
                    mine.append(event.event_id)
    finally:
        log.close()
    return found


def by_user(events: list[Event]) -> dict[str, list[str]]:
    """What `stored` should be."""
    found: dict[str, list[str]] = {}
    for event in events:
        assert isinstance(event, Engagement)
        found.setdefault(event.user_id, []).append(event.event_id)
    return found


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    give_up_at_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up_at_s, f"never came: {what}"
        threading.Event().wait(0.02)


def writer_log(settings: Settings) -> SpoolingLog:
    """The log as the gateway opens it."""
    log = open_writer_log(settings, "gateway")
    assert isinstance(log, SpoolingLog)
    return log


def test_another_number_of_partitions_is_refused(cluster: KafkaCluster, tmp_path: Path) -> None:
    """Followers and the writer are told both numbers, and nothing is written."""
    settings = some_settings(cluster, a_topic(cluster, 3), tmp_path)
    for open_it in (open_log, writer_log):
        with pytest.raises(ConfigError, match=r"n_partitions is 4, but topic .* has 3 partitions"):
            open_it(settings)


def test_a_missing_topic_is_made(cluster: KafkaCluster, tmp_path: Path) -> None:
    """With the partitions of the settings, once, by whoever is first."""
    settings = some_settings(cluster, f"made-{time.time_ns()}", tmp_path)
    problems: list[Exception] = []

    def write(name: str) -> None:
        log = KafkaEventLog(settings.events)
        try:
            log.append(clicks(name, 3))
        except StoreError as error:
            problems.append(error)
        finally:
            log.close()

    threads = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    log = open_log(settings)
    assert len(log.end_offsets()) == 4
    assert sum(log.end_offsets().values()) == 9
    log.close()


def test_records_that_are_gone_are_a_gap_and_no_standstill(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """A follower below the oldest kept record gets that record, whose offset shows the gap."""
    from kafka import KafkaAdminClient, TopicPartition

    settings = some_settings(cluster, a_topic(cluster), tmp_path)
    log = KafkaEventLog(settings.events)
    place = log.append(clicks("a", 40, n_users=1))[0]
    assert log.read(place.partition, 5, 1)[0].offset == 5
    admin = KafkaAdminClient(bootstrap_servers=list(cluster.bootstrap_servers))
    admin.delete_records({TopicPartition(settings.events.kafka.topic, place.partition): 25})
    admin.close()
    assert log.begin_offsets()[place.partition] == 25
    fresh = KafkaEventLog(settings.events)
    for reader in (fresh, log):
        found = reader.read(place.partition, 3, 10)
        assert [record.offset for record in found] == list(range(25, 35))
        assert reader.read(place.partition, 35, 10)[-1].offset == 39
    fresh.close()
    log.close()


def test_a_dead_broker_fails_in_time_and_is_found_again(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """Append and read say what to do within the time-out, and work as soon as it is back."""
    settings = some_settings(cluster, a_topic(cluster), tmp_path)
    log = KafkaEventLog(settings.events)
    place = log.append(clicks("before", 10))[0]
    assert log.read(place.partition, 0, 1)
    cluster.kill(0)
    try:
        started_s = time.monotonic()
        with pytest.raises(PartlyStored, match="unknown outcome") as failed:
            log.append(clicks("during", 4))
        assert failed.value.unstored == clicks("during", 4)
        for _ in range(2):
            with pytest.raises(StoreError, match="check that the broker runs"):
                log.append(clicks("during", 4))
            with pytest.raises(StoreError, match="check that the broker runs"):
                log.read(place.partition, place.offset, 100)
        assert time.monotonic() - started_s < 8 * TIMEOUT_S
    finally:
        cluster.start(0)
    log.append(clicks("after", 10))
    assert log.read(place.partition, 0, 100)
    log.close()
    found = stored(settings)
    assert {name[:5] for name in found["u1"]} >= {"befor", "after"}


def test_a_broker_that_hangs_is_as_good_as_dead(cluster: KafkaCluster, tmp_path: Path) -> None:
    """Its connections stay open and nothing comes: events go to the spool, then to the log."""
    settings = some_settings(cluster, a_topic(cluster), tmp_path)
    log = writer_log(settings)
    events = clicks("e", 300)
    log.append(events[:100])
    assert log.n_spooled == 0
    cluster.pause(0)
    try:
        started_s = time.monotonic()
        log.append(events[100:200])
        assert time.monotonic() - started_s < 3 * TIMEOUT_S
        assert log.is_broker_away
        started_s = time.monotonic()
        log.append(events[200:])
        assert time.monotonic() - started_s < TIMEOUT_S / 2
        assert log.spooled_events == 200
    finally:
        cluster.resume(0)
    until(lambda: not log.spooled_events, "the spool is empty")
    log.close()
    assert stored(settings) == by_user(events)


def test_without_a_broker_the_writer_starts_and_spools(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """It opens in seconds; what it takes comes in order once the broker is there."""
    settings = some_settings(cluster, a_topic(cluster), tmp_path)
    events = clicks("e", 2_000)
    cluster.kill(0)
    try:
        started_s = time.monotonic()
        log = writer_log(settings)
        assert time.monotonic() - started_s < 10
        assert log.is_broker_away
        for start in range(0, len(events), 100):
            log.append(events[start : start + 100])
        assert log.spooled_events == len(events)
    finally:
        cluster.start(0)
    until(lambda: not log.spooled_events, "the spool is empty")
    assert not log.is_broker_away
    log.append(clicks("late", 5))
    assert log.n_spooled == len(events)
    log.close()
    found = stored(settings)
    assert {user: ids[:-1] for user, ids in found.items()} == by_user(events)


_WRITER = """
import sys
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.log.open_log import open_writer_log

log = open_writer_log(Settings.model_validate_json(sys.argv[1]), "killed")
for batch in range(1_000_000):
    name = f"{sys.argv[2]}-{batch:05d}"
    log.append([Engagement(event_id=name, kind="click", user_id="u1", item_id="i1",
                           timestamp_ms=batch, received_at_ms=batch, origin="api")])
    print(name, flush=True)
"""


def test_a_writer_killed_while_the_broker_is_away_loses_nothing(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    """Its acknowledged events are on disk; the next writer brings them, in order."""
    settings = some_settings(cluster, a_topic(cluster), tmp_path)
    acknowledged: list[str] = []
    try:
        for life in range(3):
            with subprocess.Popen(
                [sys.executable, "-c", _WRITER, settings.model_dump_json(), f"life{life}"],
                stdout=subprocess.PIPE,
                text=True,
            ) as writer:
                assert writer.stdout is not None
                acknowledged += [writer.stdout.readline().strip() for _ in range(20)]
                if not life:
                    cluster.kill(0)
                acknowledged += [writer.stdout.readline().strip() for _ in range(20)]
                writer.send_signal(signal.SIGKILL)
                acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    finally:
        cluster.start(0)
    log = writer_log(settings)
    until(lambda: not log.spooled_events, "the spool is empty")
    log.close()
    found = stored(settings)["u1"]
    assert len(acknowledged) >= 120
    assert [name for name in found if name in set(acknowledged)] == acknowledged
    (left,) = (tmp_path / "spool").iterdir()
    assert [path.name for path in left.iterdir()] == ["lock"]
