"""A bundle's failures are its own: breakers, what copies cost, and the order of a stop."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from recsys.settings import Settings
from recsys.types import Batch
from serve_app.gateway import GatewayReplica, unlogged
from serve_app.stages.breaker import FAILURES_TO_OPEN, MAX_BUNDLES, BundleBreakers
from serve_app.stages.placement import (
    FusedStage,
    RemoteStage,
    StageClient,
    StageFailure,
    try_stage,
)

BATCH: Batch = {"k": np.asarray([1, 2], np.int64)}


async def raises(batch: Batch) -> Batch:
    """A scorer that fails on every batch."""
    await asyncio.sleep(0)
    raise ValueError("cannot score")


async def hangs(batch: Batch) -> Batch:
    """A scorer that never answers."""
    await asyncio.Event().wait()
    return batch


def remote(bad: Any) -> RemoteStage:
    """A stage that does `bad` for one bundle and answers for every other."""

    async def answer(_: str, bundle_id: str, batch: Batch, __: float) -> Batch:
        return cast(Batch, await bad(batch)) if bundle_id == "bad" else batch

    return RemoteStage("scorer", answer)


def fused() -> FusedStage:
    """Likewise inside the process."""

    def stage_of(bundle_id: str) -> Any:
        def stage(_: str, batch: Batch) -> Batch:
            if bundle_id == "bad":
                raise ValueError("cannot score")
            return batch

        return stage

    return FusedStage("scorer", stage_of)


@pytest.mark.parametrize(
    ("client", "reason"),
    [(remote(raises), "unavailable"), (remote(hangs), "timeout"), (fused(), "unavailable")],
    ids=["remote raises", "remote hangs", "fused raises"],
)
def test_failures_in_a_row_of_one_bundle_leave_stable_whole(
    client: StageClient, reason: str
) -> None:
    """No good answer comes between, so a breaker they shared would be open by then."""

    async def ask(bundle_id: str) -> Batch | StageFailure:
        timeout_s = 0.005 if bundle_id == "bad" else 1.0
        return await try_stage(client, "scorer", "score", bundle_id, BATCH, timeout_s)

    async def scenario() -> None:
        for _ in range(FAILURES_TO_OPEN):
            assert await ask("bad") == StageFailure("scorer", reason)
        assert await ask("bad") == StageFailure("scorer", "unavailable")
        assert await ask("stable") is BATCH

    asyncio.run(scenario())


def test_a_dead_stage_costs_each_bundle_its_own_first_failures() -> None:
    """From then on nobody waits for it."""
    n_calls = {"b1": 0, "b2": 0}

    async def dead(_: str, bundle_id: str, batch: Batch, __: float) -> Batch:
        n_calls[bundle_id] += 1
        return await raises(batch)

    client = RemoteStage("scorer", dead)
    for bundle_id in ("b1", "b2"):
        for _ in range(FAILURES_TO_OPEN + 4):
            asyncio.run(try_stage(client, "scorer", "score", bundle_id, BATCH, 1.0))
    assert n_calls == {"b1": FAILURES_TO_OPEN, "b2": FAILURES_TO_OPEN}


def test_the_bundle_asked_for_longest_ago_makes_room() -> None:
    """One in use keeps its breaker; one long gone begins anew."""
    breakers = BundleBreakers(lambda: 0.0)
    kept = [breakers.of(f"b{n}") for n in range(MAX_BUNDLES)]
    breakers.of("b0")
    breakers.of("one more")
    assert breakers.of("b0") is kept[0]
    assert breakers.of("b2") is kept[2]
    assert breakers.of("b1") is not kept[1]


def test_copies_pay_for_no_column_that_nobody_records() -> None:
    """And differ from live answers in nothing else."""
    settings = Settings()
    live, copied = settings.serve, unlogged(settings).serve
    assert (copied.log_unshown, copied.log_history) == (0, 0)
    columns = {"log_unshown", "log_history"}
    assert copied.model_dump(exclude=columns) == live.model_dump(exclude=columns)


def test_a_stopping_gateway_ends_copies_before_it_lets_its_stages_go() -> None:
    """Else what is under way would be recorded as the shadow's failures."""
    order: list[str] = []

    async def stop_stages() -> None:
        await asyncio.sleep(0)
        order.append("stages")

    replica = SimpleNamespace(
        _graph=SimpleNamespace(
            shadows=SimpleNamespace(stop=lambda: order.append("shadows")),
            stop=lambda: order.append("graph"),
        ),
        _stages=SimpleNamespace(stop=stop_stages),
    )
    asyncio.run(GatewayReplica.__del__(cast(GatewayReplica, replica)))
    assert order == ["shadows", "stages", "graph"]
