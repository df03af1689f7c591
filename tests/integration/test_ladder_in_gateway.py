"""A gateway with more requests than it has places for: it answers all, with less, and recovers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recsys.events import Impression, decode_event
from recsys.settings import Settings
from recsys.stores.log.open_log import open_log
from serve_app.gateway import Graph
from serve_app.stages.ladder import Rung
from tests.asgi_client import call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings

pytestmark = pytest.mark.integration

N_AT_ONCE = 24


def test_a_rush_climbs_the_ladder_and_calm_leaves_it(tmp_path: Path) -> None:
    """Every answer is a whole slate, says what it lacks, and is logged and counted with that."""
    settings = small_settings(
        tmp_path, placement="fused", ladder_wait_ms=1, max_batch=1, max_batches_in_flight=1
    )
    put_in_force(settings, all_to(publish_small(settings, tmp_path / "new").bundle_id))
    graph = Graph(settings, None, "gateway-1", adds_request_id=True)
    said = asyncio.run(rushed(graph))
    reasons = {rung.reason for rung in Rung if rung}
    assert said == reasons
    counted = {
        dict(tags)["reason"]
        for (name, tags) in graph.telemetry.take().counts
        if name == "flywheel_degraded"
    }
    assert counted == reasons
    assert logged(settings) == reasons


async def rushed(graph: Graph) -> set[str]:
    """What answers of a rush say they lack; returns once they lack nothing any more."""
    said: set[str] = set()

    async def recommend(n: int) -> tuple[str, ...]:
        reply = await call(graph.http, "GET", "/v1/recommend", query=f"user_id=u{n}&k=5")
        assert reply.status == 200, reply.body
        assert len(reply.json()["items"]) == 5
        return tuple(reply.json()["degraded"])

    await graph.start()
    try:
        async with asyncio.timeout(30):
            while len(said) < 3:
                for degraded in await asyncio.gather(*map(recommend, range(N_AT_ONCE))):
                    said.update(degraded)
            while await recommend(0):
                await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(graph.stop)
    return said


def logged(settings: Settings) -> set[str]:
    """What the impressions in the log say was left out."""
    log = open_log(settings)
    try:
        events = [
            decode_event(record.value)
            for partition in log.end_offsets()
            for record in log.read(partition, 0, 10_000)
        ]
    finally:
        log.close()
    return {why for event in events if isinstance(event, Impression) for why in event.degraded}
