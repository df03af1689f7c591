"""Bodies on their way in: slow ones end, many hold little, and what they held is given back."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from recsys.errors import RequestError
from serve_app.door.admission import Admission, Lane, Refused, ShedReason
from serve_app.door.body_intake import BodyIntake
from serve_app.door.concurrency_limit import LimitRules
from serve_app.http.http_exchange import ClientGone, Exchange


def exchange_of(parts: Sequence[bytes], *, ends: bool = True, leaves: bool = False) -> Exchange:
    """A caller who sends these parts, then ends, leaves, or says nothing more."""
    left = list(parts)

    async def receive() -> MutableMapping[str, Any]:
        if left:
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left) or not ends}
        if leaves:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        raise AssertionError

    admission = Admission(LimitRules.of(1, 8, 8, 1_000))
    seat = admission.arrive(Lane.SLATE)
    assert seat is not None
    return Exchange({"headers": []}, receive, "r", 0, seat, 0.0)


def test_a_body_that_does_not_come_is_given_up() -> None:
    """The caller is told, and nothing of it is held."""
    intake = BodyIntake(timeout_s=0.01)
    with pytest.raises(RequestError) as told:
        asyncio.run(intake.read(exchange_of([b"slow"], ends=False), 100))
    assert told.value.status == 400
    assert "not whole after 0.01 s" in str(told.value)
    assert intake.held_bytes == 0


def test_bodies_hold_a_bounded_number_of_bytes_together() -> None:
    """A slow caller holds what it sent; whoever would be too much is refused, not the others."""
    intake = BodyIntake(max_held_bytes=100, timeout_s=0.05)

    async def scenario() -> tuple[list[bytes | BaseException], int]:
        slow = [asyncio.create_task(intake.read(exchange_of([b"x"], ends=False), 99)) for _ in "ab"]
        await asyncio.sleep(0)
        held = intake.held_bytes
        found = await asyncio.gather(
            intake.read(exchange_of([b"y" * 60, b"y" * 39]), 200),
            intake.read(exchange_of([b"z" * 50, b"z" * 40]), 200),
            return_exceptions=True,
        )
        await asyncio.gather(*slow, return_exceptions=True)
        return found, held

    (refused, read), held = asyncio.run(scenario())
    assert held == 2
    assert isinstance(refused, Refused)
    assert refused.reason is ShedReason.BODIES
    assert read == b"z" * 90
    assert intake.held_bytes == 0


def test_a_caller_who_leaves_gives_back_what_it_held() -> None:
    """Half a body is nobody's."""
    intake = BodyIntake()
    with pytest.raises(ClientGone):
        asyncio.run(intake.read(exchange_of([b"half"], ends=False, leaves=True), 100))
    assert intake.held_bytes == 0


def test_only_who_is_waited_for_gives_up_the_seat() -> None:
    """A body that is there keeps it; one that is not yet has none until it is whole."""
    intake = BodyIntake(timeout_s=0.01)
    quick, slow = exchange_of([b"all"]), exchange_of([b"half"], ends=False)
    assert asyncio.run(intake.read(quick, 100)) == b"all"
    assert quick.seat.is_inside
    with pytest.raises(RequestError):
        asyncio.run(intake.read(slow, 100))
    assert not slow.seat.is_inside
