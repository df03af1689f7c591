"""Bad events and bad places to keep them, sent over HTTP to a whole graph: serving goes on."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import time
import warnings
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pytest

from brokers.kafka_cluster import KafkaCluster
from recsys.data_settings import EventSettings, KafkaSettings
from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.log.open_log import open_log
from recsys.types import UserState
from serve_app.gateway import Graph
from tests.asgi_client import Reply, call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings
from tests.kafka_server import a_kafka_cluster, a_topic, kafka_event_settings
from train_app.following.features.stream_features import FeatureStream
from train_app.lake.archiving.ingest import run_ingest
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake

T = TypeVar("T")

pytestmark = [
    pytest.mark.integration,
    # The client leaves the sockets of refused connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOUR_MS = 3_600_000
WAIT_S = 60.0


@pytest.fixture(scope="module")
def broker() -> Generator[KafkaCluster]:
    """One broker; a test that stops it starts it again."""
    with a_kafka_cluster() as running:
        yield running
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    """A service with the embedded log and a bundle in force."""
    return a_place(tmp_path)


@pytest.fixture(params=["sqlite", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A service on either log."""
    if request.param == "sqlite":
        return a_place(tmp_path)
    cluster: KafkaCluster = request.getfixturevalue("broker")
    return a_place(tmp_path, kafka_event_settings(cluster, a_topic(cluster)))


def a_place(directory: Path, events: EventSettings | None = None) -> Settings:
    """Settings whose stable bundle is published."""
    settings = small_settings(directory, placement="fused")
    if events is not None:
        settings = settings.model_copy(update={"events": events})
    bundle = publish_small(settings, directory / "staging")
    put_in_force(settings, all_to(bundle.bundle_id))
    return settings


@dataclass
class Client:
    """Talks HTTP to a graph in this process."""

    graph: Graph

    async def post(self, *events: dict[str, Any]) -> Reply:
        """Send events."""
        body = json.dumps({"events": list(events)}).encode()
        return await call(self.graph.http, "POST", "/v1/events", body)

    async def recommend(self, user_id: str) -> Reply:
        """Ask for a slate."""
        headers = {"x-request-id": f"r-{user_id}"}
        return await call(
            self.graph.http, "GET", "/v1/recommend", query=f"user_id={user_id}", headers=headers
        )

    async def ready(self) -> dict[str, Any]:
        """What `/readyz` says."""
        reply = await call(self.graph.http, "GET", "/readyz")
        assert reply.status == 200, reply.body
        document: dict[str, Any] = reply.json()
        return document


def using(settings: Settings, scenario: Any) -> Any:
    """Run `scenario(client)` on a started graph and stop it."""
    graph = Graph(settings, None, f"gateway-{time.monotonic_ns()}", adds_request_id=True)

    async def whole() -> Any:
        await graph.start()
        try:
            return await scenario(Client(graph))
        finally:
            graph.stop()

    return asyncio.run(whole())


async def until(condition: Coroutine[Any, Any, bool] | Any, what: str) -> None:
    """Wait for an async condition."""
    give_up_at_s = time.monotonic() + WAIT_S
    while not await condition():
        assert time.monotonic() < give_up_at_s, f"never came: {what}"
        await asyncio.sleep(0.05)


def follow(settings: Settings) -> None:
    """Bring the features up to the log's end."""
    log = open_log(settings)
    stream = FeatureStream(log, open_feature_writer(settings), settings)
    every = range(settings.events.n_partitions)
    while stream.lag(every):
        stream.run_once(every)
    assert stream.n_bad == 0
    stream.close()
    log.close()


def state_of(settings: Settings, user_id: str) -> UserState:
    """What the features know of a user."""
    store = open_features(settings)
    try:
        (state,) = store.read_users([user_id])
    finally:
        store.close()
    return state


def in_lake(settings: Settings, user_id: str) -> list[dict[str, Any]]:
    """The user's engagements in the lake, after all of the log was brought in and checked."""
    run_ingest(settings, lambda *_: None)
    lake = Lake(settings.lake_location)
    log = open_log(settings)
    report = check_lake(lake, log)
    log.close()
    assert report.is_whole, report.problems
    table = lake.find("engagements")
    assert table is not None
    with duckdb.connect() as connection:
        table.attach(connection, "engagements")
        found = connection.execute(
            "SELECT * FROM engagements WHERE user_id = ? ORDER BY timestamp_ms, event_id", [user_id]
        )
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": None},
        {"item_id": ""},
        {"kind": None},
        {"kind": "k" * 65},
        {"user_id": "u" * 257},
        {"timestamp": "1989-12-31T23:59:59Z"},
        {"timestamp": 9_999_999_999_999},
        {"timestamp": "next tuesday"},
        {"value": "much"},
        {"position": -1},
        {"surprise": 1},
    ],
)
def test_a_bad_event_is_refused_with_its_index_and_takes_its_batch_along(
    embedded: Settings, change: dict[str, Any]
) -> None:
    """Nothing of the request is stored, and the service goes on."""
    good = {"kind": "click", "user_id": "u1", "item_id": "i1"}
    bad = {name: value for name, value in {**good, **change}.items() if value is not None}

    async def scenario(client: Client) -> tuple[Reply, Reply]:
        return await client.post(good, bad), await client.recommend("u1")

    refused, answered = using(embedded, scenario)
    assert refused.status == 400
    assert {error["index"] for error in refused.json()["errors"]} == {1}
    assert answered.status == 200
    follow(embedded)
    assert state_of(embedded, "u1").history == ()


def test_an_oversize_body_is_refused_and_the_next_one_taken(embedded: Settings) -> None:
    """1 MiB is the limit of events; the connection's next request is as any other."""
    event = {"kind": "click", "user_id": "u1", "item_id": "i" * 250}
    too_many = [event] * 4_200

    async def scenario(client: Client) -> tuple[Reply, Reply]:
        return await client.post(*too_many), await client.post(event)

    refused, taken = using(embedded, scenario)
    assert (refused.status, taken.status) == (413, 202)
    follow(embedded)
    assert len(state_of(embedded, "u1").history) == 1


def test_a_kind_that_no_bundle_knows_is_kept_and_harms_nothing(embedded: Settings) -> None:
    """A product may report new kinds before anything was trained on them."""
    event = {"kind": "stared at", "user_id": "u1", "item_id": "i1"}

    async def scenario(client: Client) -> tuple[Reply, Reply]:
        posted = await client.post(event)
        follow(embedded)
        return posted, await client.recommend("u1")

    posted, answered = using(embedded, scenario)
    assert (posted.status, answered.status) == (202, 200)
    assert answered.json()["degraded"] == []
    assert [entry.kind for entry in state_of(embedded, "u1").history] == ["stared at"]
    assert [row["kind"] for row in in_lake(embedded, "u1")] == ["stared at"]


def test_an_event_that_is_sent_again_counts_once(place: Settings) -> None:
    """Within a request, in a later one, and after a restart of gateway and followers."""
    event = {"event_id": "same", "kind": "click", "user_id": "u1", "item_id": "i1"}
    other = {**event, "event_id": "other", "item_id": "i2"}

    async def scenario(client: Client) -> list[Reply]:
        return [await client.post(event, event, other), await client.post(event)]

    replies = using(place, scenario)
    follow(place)
    run_ingest(place, lambda *_: None)
    replies += using(place, scenario)
    follow(place)
    assert [reply.status for reply in replies] == [202] * 4
    assert replies[0].json()["event_ids"] == ["same", "same", "other"]
    assert sorted(entry.item_id for entry in state_of(place, "u1").history) == ["i1", "i2"]
    assert sorted(row["event_id"] for row in in_lake(place, "u1")) == ["other", "same"]
    store = open_features(place)
    (counts,) = store.item_counts(["i1"], now_ms())
    store.close()
    assert counts.counts.positives == (1, 1, 1)


def test_engagements_that_fit_no_impression_are_kept_as_they_are(place: Settings) -> None:
    """Before its impression, of an item not in the slate, for a request of long ago or of nobody:
    each is in history and lake with what it said.
    """
    long_ago_ms = now_ms() - 400 * 24 * HOUR_MS

    async def scenario(client: Client) -> list[Reply]:
        before = {"kind": "click", "user_id": "u1", "item_id": "i1", "request_id": "r-u1"}
        replies = [await client.post(before), await client.recommend("u1")]
        shown = {item["item_id"] for item in replies[-1].json()["items"]}
        elsewhere = next(f"i{n}" for n in range(120) if f"i{n}" not in shown | {"i1"})
        of_other = {"kind": "like", "user_id": "u1", "item_id": elsewhere, "request_id": "r-u1"}
        ancient = {**before, "item_id": "i2", "request_id": "r-old", "timestamp": long_ago_ms}
        out_of_reach = {**before, "item_id": "i3", "position": 2**31 - 1}
        replies.append(await client.post(of_other, ancient, out_of_reach))
        return replies

    replies = using(place, scenario)
    assert [reply.status for reply in replies] == [202, 200, 202]
    follow(place)
    history = state_of(place, "u1").history
    assert len(history) == 4
    assert history[0].item_id == "i2"
    assert history[0].timestamp_ms == long_ago_ms
    rows = in_lake(place, "u1")
    assert [row["request_id"] for row in rows] == ["r-old", "r-u1", "r-u1", "r-u1"]
    store = open_features(place)
    ancient_counts, counts = store.item_counts(["i2", "i1"], now_ms())
    store.close()
    assert ancient_counts.counts.positives == (0, 0, 0)
    assert counts.counts.positives == (1, 1, 1)


def test_a_clock_that_jumps_an_hour_and_back_breaks_nothing(place: Settings) -> None:
    """The server's own clock goes wrong: order and counts stay right for those whose clock does."""
    clock = [now_ms()]

    async def scenario(client: Client) -> list[Reply]:
        client.graph.http._clock_ms = lambda: clock[0]
        replies = []
        for n, jump_ms in enumerate((0, HOUR_MS, 0, -HOUR_MS, 0)):
            clock[0] += jump_ms + 1_000
            event = {"kind": "click", "user_id": "u1", "item_id": f"i{n}"}
            replies.append(await client.post(event))
        return replies

    replies = using(place, scenario)
    assert [reply.status for reply in replies] == [202] * 5
    follow(place)
    history = state_of(place, "u1").history
    times = [entry.timestamp_ms for entry in history]
    assert times == sorted(times)
    assert [entry.item_id for entry in history] == ["i0", "i3", "i4", "i1", "i2"]
    store = open_features(place)
    counts = store.item_counts([f"i{n}" for n in range(5)], clock[0])
    later = store.item_counts([f"i{n}" for n in range(5)], clock[0] + 2 * HOUR_MS)
    store.close()
    day = [entry.counts.positives[2] for entry in counts]
    assert [day[n] for n in (0, 3, 4)] == [1, 1, 1]
    assert [entry.counts.positives[2] for entry in later] == [1] * 5
    assert [entry.counts.positives[0] for entry in later] == [0] * 5


def test_without_its_broker_a_gateway_starts_serves_and_says_so(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    """Events are acknowledged from the spool, and reach the features once the broker is there."""
    settings = a_place(tmp_path, kafka_event_settings(broker, a_topic(broker)))
    broker.kill(0)
    events = [{"kind": "click", "user_id": f"u{n % 7}", "item_id": f"i{n}"} for n in range(70)]

    async def scenario(client: Client) -> None:
        posted = await client.post(*events)
        assert posted.status == 202
        assert (await client.recommend("u1")).status == 200
        ready = await client.ready()
        assert ready["event_log"] == "spooling"
        assert ready["spooled_events"] >= len(events)
        await asyncio.to_thread(broker.start, 0)

        async def is_drained() -> bool:
            ready = await client.ready()
            return ready["event_log"] == "ok" and not ready["spooled_events"]

        await until(is_drained, "an empty spool")

    try:
        began_s = time.monotonic()
        using(settings, scenario)
        assert time.monotonic() - began_s < 2 * WAIT_S
    finally:
        broker.start(0)
    follow(settings)
    for user in range(7):
        found = [entry.item_id for entry in state_of(settings, f"u{user}").history]
        assert sorted(found) == sorted(f"i{n}" for n in range(70) if n % 7 == user)
    assert len(in_lake(settings, "u3")) == 10


def test_a_topic_of_another_shape_is_refused_at_the_start(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    """A gateway that went on would break the order of users; both numbers are named."""
    settings = a_place(tmp_path, kafka_event_settings(broker, a_topic(broker, 3)))
    with pytest.raises(ConfigError, match=r"n_partitions is 4, but .* has 3"):
        Graph(settings, None, "gateway", adds_request_id=True)


@contextmanager
def full_disk(settings: Settings) -> Generator[None]:
    """No file can grow past what the largest one of the data has now."""
    sizes = [path.stat().st_size for path in settings.data_dir.rglob("*") if path.is_file()]
    names = ("events.sqlite-wal", "spool")
    largest = max(
        (p.stat().st_size for n in names for p in settings.data_dir.rglob(f"*{n}") if p.is_file()),
        default=0,
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert sizes
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(largest, 4_096), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def fill_and_mend(client: Client, settings: Settings) -> tuple[int, list[dict[str, Any]]]:
    """Post until the disk is full, make room, post again; how many were taken, and health then."""
    event = {"kind": "click", "user_id": "u1", "item_id": "i" * 200}
    n_taken, health = 0, []
    assert (await client.post({**event, "item_id": "i1"})).status == 202
    with full_disk(settings):
        for _ in range(200):
            reply = await client.post(*([event] * 20))
            if reply.status != 202:
                break
            n_taken += 20
        assert reply.status == 503, "the disk never was full"
        assert reply.headers["retry-after"]
        assert "disk" in reply.json()["detail"] or "could not" in reply.json()["detail"]
        assert (await client.recommend("u2")).status == 200
        health.append(await client.ready())
    reply = await client.post(*([event] * 20))
    assert reply.status == 202, reply.body
    health.append(await client.ready())
    return n_taken + 21, health


def test_a_full_disk_refuses_events_and_mends_itself(embedded: Settings) -> None:
    """503 while there is no room, slates all the while, and no acknowledged event is lost."""
    n_taken, health = using(embedded, lambda client: fill_and_mend(client, embedded))
    assert [entry["event_log"] for entry in health] == ["failing", "ok"]
    assert len(in_lake(embedded, "u1")) == n_taken


def test_a_full_disk_under_the_spool_refuses_events_and_mends_itself(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    """The same while the broker is away: what was acknowledged reaches it later."""
    kafka = KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers, topic=a_topic(broker), delivery_timeout_s=2.0
    )
    settings = a_place(tmp_path, EventSettings(backend="kafka", kafka=kafka))
    broker.kill(0)

    async def scenario(client: Client) -> int:
        n_taken, _ = await fill_and_mend(client, settings)
        await asyncio.to_thread(broker.start, 0)

        async def is_drained() -> bool:
            return not (await client.ready())["spooled_events"]

        await until(is_drained, "an empty spool")
        return n_taken

    try:
        n_taken = using(settings, scenario)
    finally:
        broker.start(0)
    assert len(in_lake(settings, "u1")) == n_taken


def test_a_corrupt_log_is_set_aside_and_everybody_goes_on(embedded: Settings) -> None:
    """The gateway starts on a fresh log; what features and lake had stays, what is new comes."""

    async def one(client: Client, item_id: str) -> Reply:
        return await client.post({"kind": "click", "user_id": "u1", "item_id": item_id})

    assert using(embedded, lambda client: one(client, "i1")).status == 202
    follow(embedded)
    assert len(in_lake(embedded, "u1")) == 1
    for companion in ("-wal", "-shm"):
        embedded.log_path.with_name(embedded.log_path.name + companion).unlink(missing_ok=True)
    data = bytearray(embedded.log_path.read_bytes())
    data[100:] = bytes(255 - byte for byte in data[100:])
    embedded.log_path.write_bytes(data)

    assert using(embedded, lambda client: one(client, "i2")).status == 202
    aside = list(embedded.data_dir.glob(f"{embedded.log_path.name}.corrupt-*"))
    assert aside
    assert aside[0].read_bytes() == bytes(data)
    follow(embedded)
    assert [entry.item_id for entry in state_of(embedded, "u1").history] == ["i1", "i2"]
    assert [row["item_id"] for row in in_lake(embedded, "u1")] == ["i1", "i2"]


def test_a_corrupt_spool_is_set_aside_and_the_rest_arrives(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    """A flipped byte costs the events it lies in and no other; the damaged file is kept."""
    settings = a_place(tmp_path, kafka_event_settings(broker, a_topic(broker)))
    broker.kill(0)

    async def post(client: Client) -> None:
        for n in range(30):
            event = {"kind": "click", "user_id": "u1", "item_id": f"i{n}"}
            assert (await client.post(event)).status == 202

    async def wait(client: Client) -> None:
        async def is_drained() -> bool:
            return not (await client.ready())["spooled_events"]

        await until(is_drained, "an empty spool")

    try:
        using(settings, post)
        (segment,) = (settings.data_dir / "spool").rglob("*.spool")
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 0xFF
        segment.write_bytes(data)
    finally:
        broker.start(0)
    using(settings, wait)
    items = [row["item_id"] for row in in_lake(settings, "u1")]
    assert 28 <= len(items) < 30
    kept = [path for path in (settings.data_dir / "spool").rglob("*") if "corrupt" in path.name]
    assert kept
    assert kept[0].read_bytes() == bytes(data)
