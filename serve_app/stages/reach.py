"""Whether every stage of a bundle answers, asked with the bundle's own golden requests."""

from __future__ import annotations

from collections.abc import Mapping

from recsys.bundles.golden import warm_up_batch
from recsys.stages import ORDERING, SCORER
from serve_app.residents.bundle_loading import GatewayBundle
from serve_app.stages.placement import BundleMiss, StageClient, StageFailure, try_stage


async def unreachable_stage(
    stages: Mapping[str, StageClient], bundle: GatewayBundle, timeout_s: float
) -> str | None:
    """The first stage that does not answer for the bundle, with the reason, or None."""
    calls = [
        (SCORER, "encode"),
        *((shard, "search") for shard in bundle.shards),
        (SCORER, "score"),
        (ORDERING, "order"),
    ]
    for stage, method in calls:
        client = stages.get(stage)
        if client is None:
            return f"{stage}: not deployed"
        batch = warm_up_batch(method, bundle.golden, 1)
        try:
            answer = await try_stage(client, stage, method, bundle.bundle_id, batch, timeout_s)
        except BundleMiss as miss:
            return str(miss)
        if isinstance(answer, StageFailure):
            return str(answer)
    return None
