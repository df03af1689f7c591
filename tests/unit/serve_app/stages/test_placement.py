"""Stage clients: how arrays travel, what is tried again, and when a stage is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from recsys.types import Batch
from serve_app.stages.breaker import FAILURES_TO_OPEN, OPEN_S, Breaker
from serve_app.stages.handle_calls import HandleCalls, PackedBatch, pack_batch, unpack_batch
from serve_app.stages.placement import (
    BundleMiss,
    FusedStage,
    RemoteStage,
    StageClient,
    StageFailure,
    try_stage,
)

BATCH: Batch = {"rows": np.asarray([[1, -1], [2, 3]], np.int32), "k": np.asarray([1, 2], np.int64)}


class Handle:
    """A Serve handle whose calls do what a list says, one after the other."""

    def __init__(self, *turns: Callable[[PackedBatch], Awaitable[PackedBatch | None]]) -> None:
        self.turns = list(turns)
        self.n_calls = 0

    def options(self, **options: str) -> Handle:
        assert options["request_serialization"] == options["response_serialization"] == "pickle"
        return self

    def remote(self, method: str, bundle_id: str, packed: PackedBatch) -> Awaitable[Any]:
        self.n_calls += 1
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return turn(packed)


async def echo(packed: PackedBatch) -> PackedBatch | None:
    """Answers what it was asked."""
    await asyncio.sleep(0)
    return packed


async def lose(packed: PackedBatch) -> PackedBatch | None:
    """The replica dies."""
    await asyncio.sleep(0)
    from ray.exceptions import ActorUnavailableError

    raise ActorUnavailableError("gone", b"\0" * 16)


async def miss(packed: PackedBatch) -> PackedBatch | None:
    """The replica does not hold the bundle."""
    await asyncio.sleep(0)


async def hang(packed: PackedBatch) -> PackedBatch | None:
    """No answer ever comes."""
    await asyncio.Event().wait()
    return packed


def ask(client: StageClient, timeout_s: float = 5.0, bundle_id: str = "b1") -> Batch | StageFailure:
    """One call."""
    return asyncio.run(try_stage(client, "shard-001", "search", bundle_id, BATCH, timeout_s))


def over(handle: Handle) -> RemoteStage:
    """A client of a handle."""
    calls = HandleCalls("shard-001", handle)  # type: ignore[arg-type]
    return RemoteStage("shard-001", calls.ask)


def test_arrays_travel_unchanged_and_may_be_written_to() -> None:
    """Torch asks for writable memory."""
    back = unpack_batch(pack_batch({**BATCH, "empty": np.empty((2, 0), np.float32)}))
    assert np.array_equal(back["rows"], BATCH["rows"])
    assert back["rows"].dtype == np.int32
    assert back["empty"].shape == (2, 0)
    back["rows"][0, 0] = 7


def test_a_call_whose_replica_is_lost_is_tried_once_more() -> None:
    """Stages are pure, so asking twice is safe."""
    handle = Handle(lose, echo)
    answer = ask(over(handle), timeout_s=60)  # Ray is imported meanwhile
    assert isinstance(answer, dict)
    assert np.array_equal(answer["k"], BATCH["k"])
    assert handle.n_calls == 2
    lost_twice = Handle(lose, lose, echo)
    assert ask(over(lost_twice)) == StageFailure("shard-001", "unavailable")
    assert lost_twice.n_calls == 2


def test_a_call_that_hangs_is_given_up_at_its_timeout() -> None:
    """A late shard is dropped, never waited for."""
    assert ask(over(Handle(hang)), timeout_s=0.01) == StageFailure("shard-001", "timeout")


def test_a_miss_is_not_a_failure_to_degrade() -> None:
    """The whole request goes to another bundle instead."""
    with pytest.raises(BundleMiss):
        ask(over(Handle(miss)))
    with pytest.raises(BundleMiss):
        ask(FusedStage("shard-001", lambda _: None))


def test_a_fused_stage_out_of_time_is_not_started() -> None:
    """What runs on the loop cannot be stopped, so it must not begin."""
    assert ask(FusedStage("shard-001", lambda _: None), timeout_s=0.0) == StageFailure(
        "shard-001", "timeout"
    )


def test_a_stage_that_keeps_failing_is_not_asked_for_a_while() -> None:
    """Its batches go on without it at once."""
    handle = Handle(lose)
    client = over(handle)
    for _ in range(FAILURES_TO_OPEN + 5):
        assert ask(client) == StageFailure("shard-001", "unavailable")
    assert handle.n_calls == 2 * FAILURES_TO_OPEN


def test_an_open_breaker_lets_one_trial_through_and_closes_on_success() -> None:
    """The way back takes one good answer."""
    now_s = [0.0]
    breaker = Breaker(lambda: now_s[0])
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.allows()
        breaker.failed()
    assert not breaker.allows()
    now_s[0] = OPEN_S
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.failed()
    now_s[0] = 2 * OPEN_S
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.succeeded()
    assert [breaker.allows(), breaker.allows()] == [True, True]
