"""Link servers and a pool over them in one process, listed as Serve would, for tests of links."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import uvloop

from recsys.link_certificates import LinkCertificates
from recsys.types import Batch
from serve_app.links.handshake import LinkAddress
from serve_app.links.link_pool import LinkPool, Roster
from serve_app.links.link_server import LinkServer
from serve_app.stages.placement import RemoteStage

HOST = "127.0.0.1"

Go = Callable[[Callable[[], Coroutine[None, None, None]]], None]
"""Runs a scenario to its end."""


@dataclass
class Replica:
    """A stage replica in this process; says who answered."""

    name: str
    certificates: LinkCertificates | None = None
    n_calls: int = 0
    bundles: list[str] = field(default_factory=list)
    """Asked for, in the order they were."""
    lacking: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    """The reason of each connection that came to no link."""
    server: LinkServer = field(init=False)
    address: LinkAddress = field(init=False)

    def run(self, method: str, bundle_id: str, batch: Batch) -> Batch | None:
        """Doubles what it is given."""
        self.n_calls += 1
        self.bundles.append(bundle_id)
        if method == "fail":
            raise ValueError("no such column")
        if method == "linger":
            time.sleep(0.3)
        if method == "say words":
            return {"words": np.asarray(["no", "numbers"])}
        if bundle_id == "absent" or bundle_id in self.lacking:
            return None
        return {"doubled": 2 * batch["x"], "who": np.frombuffer(self.name.encode(), np.uint8)}

    async def start(self) -> None:
        """Listen."""
        self.server = LinkServer(self.run, self.name, self.certificates, self.refused.append)
        self.address = await self.server.start(HOST)


@dataclass
class Fleet:
    """Replicas as Serve lists them, and a pool over them."""

    replicas: list[Replica]
    listed: list[LinkAddress]
    silent: list[str]
    pool: LinkPool
    hedged: list[str]
    """An entry for each call that was made twice."""

    def stage(self) -> RemoteStage:
        """As the pipeline calls it."""
        return RemoteStage("scorer", self.pool.ask)


@asynccontextmanager
async def a_fleet(
    n_replicas: int, certificates: LinkCertificates | None = None
) -> AsyncGenerator[Fleet]:
    """Some replicas and a started pool, all at one node; all is closed at the end."""
    replicas = [Replica(f"r{n}", certificates) for n in range(n_replicas)]
    for replica in replicas:
        await replica.start()
    listed = [replica.address for replica in replicas]
    silent: list[str] = []

    async def find() -> Roster:
        await asyncio.sleep(0)
        heard = [address for address in listed if address.replica_id not in silent]
        return Roster(heard, len(listed) - len(heard))

    hedged: list[str] = []
    pool = LinkPool("scorer", find, random.Random(5), lambda: hedged.append("scorer"), certificates)
    await pool.start()
    try:
        yield Fleet(replicas, listed, silent, pool, hedged)
    finally:
        await pool.stop()
        for replica in replicas:
            await replica.server.stop(0.0)


def runs_on(loop: str) -> Go:
    """Runs scenarios on the loop of either kind of replica, but none for ever.

    Args:
        loop: `asyncio` or `uvloop`.
    """
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop

    def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await scenario()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run


async def until(is_true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    while not is_true():
        await asyncio.sleep(0.005)


async def ask(
    pool: LinkPool, x: int = 21, method: str = "double", bundle: str = "b1"
) -> Batch | None:
    """One call with time to spare."""
    return await pool.ask(method, bundle, {"x": np.asarray([x])}, 30.0)


def freeze(replica: Replica) -> None:
    """It reads nothing any more, and closes nothing."""
    for link in replica.server.links:
        assert link._transport is not None
        link._transport.pause_reading()


def who(answer: Batch | None) -> str:
    """The replica that answered."""
    assert answer is not None
    return answer["who"].tobytes().decode()
