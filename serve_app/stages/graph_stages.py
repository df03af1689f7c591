"""The clients of a gateway's stages for its placement, and their life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from serve_app.links.link_pool import LinkPool
from serve_app.links.link_server import LinkAddress
from serve_app.stages.handle_calls import HandleCalls
from serve_app.stages.placement import RemoteStage, StageClient

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class RemoteStages:
    """Stages in deployments of their own, by their Serve handles.

    Args:
        placement: how they are called.
        handles: a handle per stage name; with links it only tells who is there.
    """

    def __init__(
        self,
        placement: Literal["link", "handle"],
        handles: Mapping[str, DeploymentHandle[Any]],
        rng: random.Random,
    ) -> None:
        self._pools: list[LinkPool] = []
        self.clients: dict[str, StageClient] = {}
        for stage, handle in handles.items():
            if placement == "handle":
                self.clients[stage] = RemoteStage(stage, HandleCalls(stage, handle).ask)
                continue
            pool = LinkPool(stage, addresses_by(handle), rng)
            self._pools.append(pool)
            self.clients[stage] = RemoteStage(stage, pool.ask)

    async def start(self) -> None:
        """Connect to the replicas that are there."""
        await asyncio.gather(*(pool.start() for pool in self._pools))

    async def stop(self) -> None:
        """Let the connections go."""
        await asyncio.gather(*(pool.stop() for pool in self._pools))


def addresses_by(
    handle: DeploymentHandle[Any],
) -> Callable[[], Awaitable[Sequence[LinkAddress]]]:
    """Asks every running replica of a deployment where it listens."""

    async def find() -> Sequence[LinkAddress]:
        answers = await handle.broadcast("link_address").results_async(return_exceptions=True)
        return [address for address in answers if isinstance(address, LinkAddress)]

    return find
