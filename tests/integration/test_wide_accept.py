"""Connections that wait together are accepted together, on uvloop too, until the server closes."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from serve_app.door.wide_accept import accept_widely

pytestmark = pytest.mark.integration
N_CALLERS = 40
MOST_TURNS = 5


class _Noting(asyncio.Protocol):
    """Says when it is somebody's."""

    def __init__(self, turn_of: list[int], turns: list[int]) -> None:
        self._turn_of, self._turns = turn_of, turns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._turn_of.append(self._turns[0])


async def turns_until_accepted() -> list[int]:
    """The turn of the loop in which each of the callers was accepted; then it closes."""
    loop = asyncio.get_running_loop()
    accept_widely(loop)
    turn_of: list[int] = []
    turns = [0]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = await loop.create_server(lambda: _Noting(turn_of, turns), sock=listening)
        address = listening.getsockname()
        callers = [socket.create_connection(address) for _ in range(N_CALLERS)]
        while len(turn_of) < N_CALLERS and turns[0] < 10 * N_CALLERS:
            turns[0] += 1
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
    for caller in callers:
        caller.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    return turn_of


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_callers_who_wait_together_are_accepted_together(new_loop: type) -> None:
    """Else each would wait for as many turns of a busy loop as there are callers before it."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        turn_of = runner.run(turns_until_accepted())
    assert len(turn_of) == N_CALLERS
    assert max(turn_of) - min(turn_of) <= MOST_TURNS
