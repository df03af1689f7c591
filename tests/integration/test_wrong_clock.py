"""A gateway whose time of day jumps: it answers, takes events, and follows the plan."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from serve_app.gateway import Graph
from tests.asgi_client import Reply, call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings

pytestmark = pytest.mark.integration

EVENT = json.dumps({"events": [{"kind": "click", "user_id": "u8", "item_id": "i3"}]}).encode()
JUMPS_S = (0, 3_600, -3_600, 86_400, -30 * 86_400)


def test_no_jump_of_the_clock_fails_a_request_or_stops_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines, breakers and polls count by a clock that does not jump."""
    settings = small_settings(tmp_path, placement="fused")
    first, second = (
        publish_small(settings, tmp_path / f"new{seed}", seed=seed).bundle_id for seed in (1, 2)
    )
    put_in_force(settings, all_to(first), also_required=(second,))
    right_ns = time.time_ns
    offset_s = 0
    monkeypatch.setattr(time, "time_ns", lambda: right_ns() + offset_s * 1_000_000_000)
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
    graph = Graph(settings, None, "gateway-1", adds_request_id=True)

    async def recommend() -> Reply:
        return await call(graph.http, "GET", "/v1/recommend", query="user_id=u8&k=5")

    async def scenario() -> None:
        nonlocal offset_s
        await graph.start()
        try:
            for jump_s in JUMPS_S:
                offset_s = jump_s
                reply = await recommend()
                assert reply.status == 200, reply.body
                assert reply.json()["degraded"] == []
                taken = await call(graph.http, "POST", "/v1/events", EVENT)
                assert taken.status == 202, taken.body
                await graph.turn()
            put_in_force(settings, all_to(second))
            async with asyncio.timeout(10):
                while (await recommend()).json()["bundle_id"] != second:
                    await asyncio.sleep(0.05)
        finally:
            await asyncio.to_thread(graph.stop)

    asyncio.run(scenario())
