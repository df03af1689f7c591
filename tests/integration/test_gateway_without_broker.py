"""A gateway that starts while its log cannot be used: it serves, says so, and loses nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from brokers.kafka_cluster import free_ports
from recsys.data_settings import EventSettings, KafkaSettings
from recsys.events import decode_event
from recsys.settings import Settings
from recsys.stores.log.open_log import open_log
from recsys.stores.spool.spool import Spool
from serve_app.gateway import Graph
from tests.asgi_client import Reply, call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings

pytestmark = [
    pytest.mark.integration,
    # The client reads its schemas, at import, with a function that Python 3.11 deprecates.
    pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning"),
    # The client leaves the sockets of refused connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def gateway(settings: Settings, folder: Path) -> Graph:
    """A gateway with a bundle in force."""
    manifest = publish_small(settings, folder / "staging")
    put_in_force(settings, all_to(manifest.bundle_id))
    return Graph(settings, None, "gateway-1", adds_request_id=True)


def events_body(*event_ids: str) -> bytes:
    """A request with clicks of one user."""
    events = [
        {"event_id": event_id, "kind": "click", "user_id": "u8", "item_id": "i3"}
        for event_id in event_ids
    ]
    return json.dumps({"events": events}).encode()


async def serve(graph: Graph) -> tuple[Reply, Reply, Reply]:
    """One of everything, on a started graph that is stopped again."""
    await graph.start()
    try:
        answered = await call(graph.http, "GET", "/v1/recommend", query="user_id=u8&k=5")
        accepted = await call(graph.http, "POST", "/v1/events", events_body("e-1", "e-2"))
        await graph.turn()
        return answered, accepted, await call(graph.http, "GET", "/readyz")
    finally:
        await asyncio.to_thread(graph.stop)


def test_without_a_broker_the_gateway_serves_and_spools(tmp_path: Path) -> None:
    """It is ready, /readyz and metrics say that the log spools, and the events are on disk."""
    (port,) = free_ports(1)
    kafka = KafkaSettings(bootstrap_servers=(f"127.0.0.1:{port}",), delivery_timeout_s=2.0)
    settings = small_settings(tmp_path, placement="fused").model_copy(
        update={"events": EventSettings(backend="kafka", kafka=kafka)}
    )
    graph = gateway(settings, tmp_path)
    answered, accepted, ready = asyncio.run(serve(graph))
    assert (answered.status, accepted.status, ready.status) == (200, 202, 200)
    assert len(answered.json()["items"]) == 5
    assert ready.json()["event_log"] == "spooling"
    assert ready.json()["degraded"] == ["event log: spooling"]
    assert ready.json()["spooled_events"] >= 2
    told = graph.telemetry.take()
    assert told.levels["flywheel_spooled_events"] >= 2
    assert told.levels["flywheel_spooled_bytes"] > 0
    assert told.counts["flywheel_detoured_events", ()] >= 2

    (folder,) = (tmp_path / "spool").iterdir()
    spool = Spool(folder, 1_000_000)
    waiting = [decode_event(payload).event_id for payload in spool.peek(100)]
    spool.close()
    assert {"e-1", "e-2"} <= set(waiting)
    assert len(waiting) == 3, "the impression of the slate waits too"


def test_a_damaged_log_does_not_keep_the_gateway_from_serving(tmp_path: Path) -> None:
    """The file is set aside and counted, and the events are in a fresh log."""
    settings = small_settings(tmp_path, placement="fused")
    settings.log_path.write_bytes(b"this was a database once " * 4_000)
    graph = gateway(settings, tmp_path)
    answered, accepted, ready = asyncio.run(serve(graph))
    assert (answered.status, accepted.status, ready.status) == (200, 202, 200)
    assert ready.json()["degraded"] == []
    assert graph.telemetry.take().counts["flywheel_damaged_log_files", ()] == 1
    assert len(list(tmp_path.glob("events.sqlite.corrupt-*"))) == 1
    log = open_log(settings)
    begins, ends = log.begin_offsets(), log.end_offsets()
    assert sum(ends.values()) - sum(begins.values()) == 3
    assert min(begins.values()) > 0
    log.close()
