"""A Serve replica that runs one stage for every resident bundle, asked by handle or by link."""

from __future__ import annotations

import asyncio
from typing import Any

from recsys.link_certificates import open_link_certificates
from recsys.settings import Settings
from recsys.types import Batch
from serve_app.kept_memory import keep_freed_memory
from serve_app.links.handshake import LinkAddress
from serve_app.links.link_server import LinkServer
from serve_app.residents.bundle_loading import BundleLoader, LoadedBundle
from serve_app.residents.residency import Residency
from serve_app.stages.handle_calls import PackedBatch, pack_batch, unpack_batch
from serve_app.telemetry import RayMetrics, Telemetry

LEAVE_S = 5.0
"""How long a replica that stops waits for the gateways to go elsewhere."""


def replica_name() -> str:
    """A name for this replica that no other and no restart of it has."""
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)


def use_one_thread() -> None:
    """Keep Torch to one thread: a stage's replicas are what scales, and cores are shared."""
    import torch

    torch.set_num_threads(1)


class StageReplica:
    """Answers stage calls; a call for a bundle it does not hold is answered None.

    Args:
        stage: `scorer`, `ordering` or `shard-000` onwards.
        settings: the settings as a JSON document.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, stage: str, settings: dict[str, Any]
    ) -> None:
        self._stage = stage
        keep_freed_memory()
        resolved = Settings.model_validate(settings)
        # Before the bundles, which take longer to load than files that cannot be used to refuse.
        certificates = open_link_certificates(resolved)
        if stage == "scorer":
            use_one_thread()
        loader = BundleLoader(
            resolved, (stage,), is_gateway=False, stable_id=lambda: self._residency.stable_id
        )
        self._residency: Residency[LoadedBundle] = Residency(
            resolved, stage, replica_name(), loader.load
        )
        await asyncio.to_thread(self._residency.start)
        self._telemetry = Telemetry()
        self._metrics = RayMetrics(self._telemetry)
        self._links = LinkServer(
            self._run,
            replica_name(),
            certificates,
            self._count_refused,
        )
        self._address: LinkAddress | None = None
        if resolved.serve.placement == "link":
            from ray.util import get_node_ip_address

            host: str = get_node_ip_address()  # type: ignore[no-untyped-call]
            self._address = await self._links.start(host)

    async def link_address(self) -> LinkAddress | None:
        """Where this replica is reached directly; None where it is not."""
        return self._address

    async def call(self, method: str, bundle_id: str, packed: PackedBatch) -> PackedBatch | None:
        """Run one batch; it runs on the replica's loop, since a thread would cost more."""
        answer = self._run(method, bundle_id, unpack_batch(packed))
        return None if answer is None else pack_batch(answer)

    def _count_refused(self, reason: str) -> None:
        self._telemetry.count("flywheel_refused_links", stage=self._stage, reason=reason)

    def _run(self, method: str, bundle_id: str, batch: Batch) -> Batch | None:
        loaded = self._residency.get(bundle_id)
        return None if loaded is None else loaded.stages[self._stage](method, batch)

    async def __del__(self) -> None:
        """Send the gateways elsewhere and take the readiness back when Serve stops this replica."""
        try:
            if hasattr(self, "_links"):
                await self._links.stop(LEAVE_S)
        finally:
            if hasattr(self, "_metrics"):
                self._metrics.stop()
            if hasattr(self, "_residency"):
                await asyncio.to_thread(self._residency.stop)
