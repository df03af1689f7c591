"""A Serve replica that runs one stage for every resident bundle."""

from __future__ import annotations

import asyncio
from typing import Any

from recsys.settings import Settings
from serve_app.residents.bundle_loading import BundleLoader, LoadedBundle
from serve_app.residents.residency import Residency
from serve_app.stages.placement import PackedBatch, pack_batch, unpack_batch


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
        resolved = Settings.model_validate(settings)
        if stage == "scorer":
            use_one_thread()
        loader = BundleLoader(resolved, (stage,), is_gateway=False)
        self._residency: Residency[LoadedBundle] = Residency(
            resolved, stage, replica_name(), loader.load
        )
        await asyncio.to_thread(self._residency.start)

    async def call(self, method: str, bundle_id: str, packed: PackedBatch) -> PackedBatch | None:
        """Run one batch; it runs on the replica's loop, since a thread would cost more."""
        loaded = self._residency.get(bundle_id)
        if loaded is None:
            return None
        return pack_batch(loaded.stages[self._stage](method, unpack_batch(packed)))

    def __del__(self) -> None:
        """Take the readiness back when Serve stops this replica."""
        if hasattr(self, "_residency"):
            self._residency.stop()
