"""Shadows of a whole fused gateway: from a running row in the control store to the evidence."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_writer import ShadowWriter
from recsys.events import Impression, Outcome, ShadowAnswer, decode_event
from recsys.settings import Settings
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.log.event_log import SqliteEventLog
from serve_app.gateway import Graph
from tests.asgi_client import call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings
from tests.evidence_follower import follow

N_REQUESTS = 12


@dataclass
class Place:
    """A gateway's settings, what is stable, and what may be a shadow."""

    settings: Settings
    stable: str
    other: str

    def shadow(self, bundle_id: str) -> None:
        """Let all requests be copied to a bundle from now on."""
        record = ShadowRecord("s1", bundle_id, 1.0, ShadowState.RUNNING, "ann", 1_000)
        ShadowWriter(self.settings.control_url).start(record, "ann", 1_000)

    def serve(self, scenario: Callable[[Graph], Awaitable[None]]) -> None:
        """Run a scenario on a started gateway and stop it."""
        graph = Graph(self.settings, None, "gateway-1", adds_request_id=True)

        async def whole() -> None:
            await graph.start()
            try:
                await scenario(graph)
            finally:
                graph.stop()

        asyncio.run(whole())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two bundles, made once."""
    root = tmp_path_factory.mktemp("shadow")
    settings = small_settings(root / "var", placement="fused")
    first, second = (
        publish_small(settings, root / f"staging{seed}", seed=seed).bundle_id for seed in (1, 2)
    )
    yield Place(settings, first, second)


@pytest.fixture
def place(published: Place, tmp_path: Path) -> Place:
    """The first of them stable, in a directory of the test's own."""
    shutil.copytree(published.settings.data_dir, tmp_path / "var")
    settings = published.settings.model_copy(update={"data_dir": tmp_path / "var"})
    put_in_force(settings, all_to(published.stable))
    return Place(settings, published.stable, published.other)


async def answers_of(graph: Graph, n_requests: int = N_REQUESTS) -> None:
    """Ask one after the other, each copied before the next one comes."""
    for n in range(n_requests):
        body = f'{{"user_id": "u{n}", "k": 5, "explain": true}}'.encode()
        reply = await call(
            graph.http, "POST", "/v1/recommend", body, headers={"x-request-id": f"r{n}"}
        )
        assert reply.status == 200 and reply.json()["variant"] == "stable"
        async with asyncio.timeout(5):
            while not graph.shadows.is_idle:
                await asyncio.sleep(0)


async def until_held(graph: Graph, bundle_id: str) -> None:
    """Wait for a bundle that the start did not wait for."""
    async with asyncio.timeout(10):
        while graph.recommender.find_reached(bundle_id) is None:
            await asyncio.sleep(0.01)
            await graph.recommender.probe()


def test_a_running_shadow_is_in_the_log_and_in_the_evidence(place: Place) -> None:
    """Every request once, with both slates; what users got is of the stable bundle alone."""
    place.shadow(place.other)

    async def scenario(graph: Graph) -> None:
        await until_held(graph, place.other)
        await answers_of(graph)

    place.serve(scenario)
    log = SqliteEventLog(place.settings.log_path, place.settings.events.n_partitions)
    partitions = range(place.settings.events.n_partitions)
    events = [decode_event(r.value) for p in partitions for r in log.read(p, 0, 1000)]
    shown = {e.request_id: e for e in events if isinstance(e, Impression)}
    copies = {e.request_id: e for e in events if isinstance(e, ShadowAnswer)}
    assert len(shown) == len(copies) == N_REQUESTS and len(events) == 2 * N_REQUESTS
    for request_id, copy in copies.items():
        live = shown[request_id]
        assert (live.bundle_id, copy.live_bundle_id) == (place.stable, place.stable)
        assert (copy.bundle_id, copy.status, copy.degraded) == (place.other, 200, ())
        assert copy.live_items == tuple(item.item_id for item in live.slate)
        assert len(copy.items) == len(copy.propensities) == 5
        assert (copy.user_id, copy.timestamp_ms) == (live.user_id, live.timestamp_ms)
        assert copy.live_ms > 0 and copy.shadow_ms > 0
    assert any(copy.items != copy.live_items for copy in copies.values())
    follow(log, place.settings.evidence_url).close()
    log.close()
    sums = EvidenceReader(place.settings.evidence_url).shadow("s1")
    assert (sums.n, sums.n_compared, sums.n_failed) == (N_REQUESTS, N_REQUESTS, 0)
    assert 0.0 <= sums.overlap <= 1.0


@pytest.mark.parametrize("is_there", [True, False], ids=["not loaded yet", "not in the registry"])
def test_no_shadow_keeps_a_gateway_from_answering(place: Place, is_there: bool) -> None:
    """It starts and is ready without it, and nobody's answer is degraded."""
    place.shadow(place.other if is_there else "gone-1")

    async def scenario(graph: Graph) -> None:
        reply = await call(graph.http, "GET", "/readyz")
        assert reply.status == 200
        await answers_of(graph, 2)
        gathered = graph.telemetry.take()
        names = {name for name, _ in gathered.counts}
        assert not {"flywheel_degraded", "flywheel_bundle_miss"} & names

    place.serve(scenario)
    log = SqliteEventLog(place.settings.log_path, place.settings.events.n_partitions)
    partitions = range(place.settings.events.n_partitions)
    events = [decode_event(r.value) for p in partitions for r in log.read(p, 0, 1000)]
    log.close()
    assert not [event for event in events if isinstance(event, Outcome)]


def test_live_series_count_users_alone(place: Place) -> None:
    """Batches, stages and latencies of copies stand in series of their own."""
    place.shadow(place.other)

    async def scenario(graph: Graph) -> None:
        await until_held(graph, place.other)
        graph.telemetry.take()
        await answers_of(graph, 3)
        await graph.turn()
        gathered = graph.telemetry.take()
        n_values = {name: len(values) for (name, _), values in gathered.values.items()}
        assert n_values["flywheel_batch_size"] == n_values["flywheel_coverage"] == 3
        assert n_values["flywheel_shadow_latency_ms"] == 3
        assert n_values["flywheel_shadow_stage_ms"] == 3
        live = {tags for name, tags in gathered.values if name == "flywheel_stage_ms"}
        copies = {tags for name, tags in gathered.values if name == "flywheel_shadow_stage_ms"}
        assert copies == live - {(("stage", "explain"),)}
        counts = {name: n for (name, _), n in gathered.counts.items()}
        assert counts["flywheel_shadow_answers"] == 3

    place.serve(scenario)
