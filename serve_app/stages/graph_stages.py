"""The clients of a gateway's stages for its placement, and their life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from recsys.link_certificates import LinkCertificates
from recsys.stages import SCORER
from serve_app.links.handshake import LinkAddress
from serve_app.links.link_pool import LinkPool, Roster
from serve_app.stages.explaining import EXPLAIN
from serve_app.stages.handle_calls import HandleCalls
from serve_app.stages.placement import Ask, RemoteStage, StageClient
from serve_app.telemetry import Telemetry

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


ANSWER_S = 1.0
"""How long a replica may take to say where it listens."""


class RemoteStages:
    """Stages in deployments of their own, by their Serve handles.

    Args:
        placement: how they are called.
        handles: a handle per stage name; with links it only tells who is there.
        telemetry: counts calls that are made twice.
        certificates: of the links, where they are encrypted.
    """

    def __init__(
        self,
        placement: Literal["link", "handle"],
        handles: Mapping[str, DeploymentHandle[Any]],
        rng: random.Random,
        telemetry: Telemetry,
        certificates: LinkCertificates | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._certificates = certificates
        self._pools: list[LinkPool] = []
        self.clients: dict[str, StageClient] = {}
        self.clients_beside: dict[str, StageClient] = {}
        """The same stages for what no user waits for, with breakers of their own."""
        for stage, handle in handles.items():
            ask = self._way_to(stage, handle, placement, rng)
            self.clients[stage] = RemoteStage(stage, ask)
            self.clients_beside[stage] = RemoteStage(stage, ask)
            if stage == SCORER:
                self.clients[EXPLAIN] = RemoteStage(stage, ask)

    def _way_to(
        self,
        stage: str,
        handle: DeploymentHandle[Any],
        placement: Literal["link", "handle"],
        rng: random.Random,
    ) -> Ask:
        if placement == "handle":
            return HandleCalls(stage, handle).ask

        def hedged() -> None:
            self._telemetry.count("flywheel_hedged_calls", stage=stage)

        pool = LinkPool(stage, roster_by(handle), rng, hedged, self._certificates)
        self._pools.append(pool)
        return pool.ask

    async def start(self) -> None:
        """Connect to the replicas that are there."""
        await asyncio.gather(*(pool.start() for pool in self._pools))

    async def stop(self) -> None:
        """Let the connections go."""
        await asyncio.gather(*(pool.stop() for pool in self._pools))


def roster_by(handle: DeploymentHandle[Any]) -> Callable[[], Awaitable[Roster]]:
    """Asks every running replica of a deployment where it listens; a silent one holds up no other.

    `results_async` gives all answers or none, so each is awaited by itself.
    """

    async def find() -> Roster:
        replicas = await handle.broadcast("link_address")._fetch_replica_results_async()
        asked = [asyncio.ensure_future(_answer_of(replica)) for replica in replicas]
        done, silent = await asyncio.wait(asked, timeout=ANSWER_S)
        for late in silent:
            late.cancel()
        found = [a.result() for a in done if not a.cancelled() and a.exception() is None]
        addresses = [address for address in found if isinstance(address, LinkAddress)]
        return Roster(addresses, len(asked) - len(addresses))

    return find


async def _answer_of(replica: Any) -> Any:
    return await replica.get_async()
