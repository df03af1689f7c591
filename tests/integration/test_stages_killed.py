"""Stage processes killed and frozen under a gateway that is asked without pause: nobody notices.

By links alone, without Ray, so that it is short; `make chaos` does it to a whole service.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from recsys.stages import SCORER, stage_names
from serve_app.gateway import Graph
from serve_app.links.link_pool import LinkPool
from serve_app.stages.explaining import EXPLAIN
from serve_app.stages.placement import RemoteStage, StageClient
from tests.asgi_client import call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings
from tests.stage_process import StageProcesses

pytestmark = pytest.mark.integration

N_KILLS = int(os.environ.get("N_KILLS", "1"))
"""Per stage."""
N_CLIENTS = 4
LIMIT_S = 120 + 120 * N_KILLS


@dataclass
class Rig:
    """A gateway in this process over stages in others, and what its clients saw."""

    graph: Graph
    stages: dict[str, StageProcesses]
    pools: dict[str, LinkPool]
    n_hedged: list[str]
    statuses: Counter[int] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)

    def linked(self, stage: str) -> set[str]:
        """The replicas that the gateway is connected to."""
        return {name for name, link in self.pools[stage]._links.items() if link.is_open}

    async def whole(self) -> None:
        """Return once every stage has two replicas again."""
        while any(len(self.linked(stage)) < 2 for stage in self.stages):
            for processes in self.stages.values():
                processes.mend()
            await asyncio.sleep(0.05)

    async def answers(self, n: int) -> None:
        """Return after so many more."""
        n_wanted = self.statuses.total() + n
        while self.statuses.total() < n_wanted:
            await asyncio.sleep(0.01)

    async def ask_for_ever(self, client: int) -> None:
        """What one client does."""
        n = 0
        while True:
            query = f"user_id=u{client}-{n % 20}&k=5"
            reply = await call(self.graph.http, "GET", "/v1/recommend", query=query)
            self.statuses[reply.status] += 1
            if reply.status == 200:
                assert len(reply.json()["items"]) == 5
                self.degraded.update(reply.json()["degraded"])
            n += 1
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_rig(directory: Path) -> AsyncGenerator[Rig]:
    """Two processes of every stage, linked, and clients that ask; all is ended in the end."""
    # Whatever else this machine does: only what was killed may be missed.
    settings = small_settings(directory, stage_timeout_ms=5_000, deadline_ms=20_000)
    put_in_force(settings, all_to(publish_small(settings, directory / "new").bundle_id))
    path = directory / "settings.json"
    path.write_text(settings.model_dump_json())
    stages = {name: StageProcesses(name, path, directory / name) for name in stage_names(2)}
    hedged: list[str] = []
    pools: dict[str, LinkPool] = {}
    try:
        for name, processes in stages.items():
            processes.start(2)
            rng = random.Random(name)
            pools[name] = LinkPool(name, processes.find, rng, partial(hedged.append, name))
        for pool in pools.values():
            await pool.start()
        clients: dict[str, StageClient] = {n: RemoteStage(n, p.ask) for n, p in pools.items()}
        clients[EXPLAIN] = RemoteStage(SCORER, pools[SCORER].ask)
        graph = Graph(settings, clients, "gateway-1", adds_request_id=True)
        rig = Rig(graph, stages, pools, hedged)
        await rig.whole()
        await graph.start()
        asking = [asyncio.ensure_future(rig.ask_for_ever(n)) for n in range(N_CLIENTS)]
        try:
            yield rig
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
            for pool in pools.values():
                await pool.stop()
            await asyncio.to_thread(graph.stop)
        assert all(task.cancelled() for task in asking)
    finally:
        for processes in stages.values():
            processes.stop()


def run(scenario: Callable[[Rig], object], directory: Path) -> Rig:
    """Carry a scenario out, but not for ever."""

    async def bounded() -> Rig:
        async with asyncio.timeout(LIMIT_S), a_rig(directory) as rig:
            await scenario(rig)  # type: ignore[misc]
            return rig

    return asyncio.run(bounded())


def test_a_killed_and_a_frozen_replica_of_every_stage_cost_no_request(tmp_path: Path) -> None:
    """One of two at once, each time as soon as there are two again; no answer lacks anything."""

    async def scenario(rig: Rig) -> None:
        await rig.answers(50)
        for _ in range(N_KILLS):
            for processes in rig.stages.values():
                processes.children[0].kill()
            await rig.answers(20)
            await rig.whole()
        n_hedged = len(rig.n_hedged)
        await rig.answers(250)
        frozen = rig.stages[SCORER].children[0]
        frozen.send_signal(signal.SIGSTOP)
        try:
            await rig.answers(40)
        finally:
            frozen.send_signal(signal.SIGCONT)
        assert len(rig.n_hedged) > n_hedged

    rig = run(scenario, tmp_path)
    assert set(rig.statuses) == {200}
    assert not rig.degraded
