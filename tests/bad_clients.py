"""Callers that mean no good or are broken: each holds its connections for as long as it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

GET = b"GET /v1/recommend?user_id=u1 HTTP/1.1\r\nhost: x\r\n"
POST = b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
HUGE = 10_000_000
HUGE_HEAD = 1_000_000
N_SILENT = 10_000
_AT_ONCE = 250
"""Connections opened in one go: the kernel's queue of a listener is bounded."""

Attack = Callable[[int], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def connections(
    port: int, n: int, first: bytes = b"", *, buffer_bytes: int | None = None
) -> AsyncGenerator[list[socket.socket]]:
    """So many connections that have sent `first`, as far as it was taken; nothing is read.

    Args:
        buffer_bytes: what the kernel takes in for each; None leaves it to the kernel.
    """
    loop = asyncio.get_running_loop()
    callers: list[socket.socket] = []

    async def one() -> None:
        caller = socket.socket()
        callers.append(caller)
        caller.setblocking(False)
        if buffer_bytes is not None:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        await loop.sock_connect(caller, ("127.0.0.1", port))
        if first:
            await _sent(caller, first)

    try:
        for began in range(0, n, _AT_ONCE):
            await asyncio.gather(*(one() for _ in range(min(_AT_ONCE, n - began))))
        yield callers
    finally:
        for caller in callers:
            caller.close()


async def _sent(caller: socket.socket, data: bytes) -> None:
    """Send what is taken within a second; whoever is cut off has been refused."""
    try:
        async with asyncio.timeout(1.0):
            await asyncio.get_running_loop().sock_sendall(caller, data)
    except (OSError, TimeoutError):
        return


@asynccontextmanager
async def slowloris(port: int) -> AsyncGenerator[None]:
    """Heads that never end."""
    async with connections(port, 300, GET + b"x-slow: "):
        yield


@asynccontextmanager
async def half_closed(port: int) -> AsyncGenerator[None]:
    """Halves of heads, and of bodies, from callers that will send no more."""
    async with (
        connections(port, 100, GET) as heads,
        connections(port, 100, POST + b"content-length: 900\r\n\r\n{") as bodies,
    ):
        for caller in (*heads, *bodies):
            caller.shutdown(socket.SHUT_WR)
        yield


@asynccontextmanager
async def pipelined_garbage(port: int) -> AsyncGenerator[None]:
    """A good request, and behind it at once what is none."""
    async with connections(port, 100, GET + b"\r\n" + b"\x00\xff\r\nnonsense : :\r\n\r\n" * 200):
        yield


@asynccontextmanager
async def huge_bodies(port: int) -> AsyncGenerator[None]:
    """10 MB each, with and without saying so before."""
    said = POST + f"content-length: {HUGE}\r\n\r\n".encode() + b"x" * HUGE
    chunk = f"{HUGE:x}\r\n".encode() + b"x" * HUGE + b"\r\n0\r\n\r\n"
    unsaid = POST + b"transfer-encoding: chunked\r\n\r\n" + chunk
    async with connections(port, 6, said), connections(port, 6, unsaid):
        yield


@asynccontextmanager
async def huge_heads(port: int) -> AsyncGenerator[None]:
    """1 MB in one header."""
    async with connections(port, 20, GET + b"x-huge: " + b"x" * HUGE_HEAD + b"\r\n\r\n"):
        yield


@asynccontextmanager
async def slow_readers(port: int) -> AsyncGenerator[None]:
    """Requests whose answers nobody reads, many on each connection."""
    async with connections(port, 100, (GET + b"\r\n") * 20, buffer_bytes=4_096):
        yield


@asynccontextmanager
async def silent_crowd(port: int) -> AsyncGenerator[None]:
    """10,000 connections that say nothing."""
    async with connections(port, N_SILENT):
        yield


ATTACKS: tuple[Attack, ...] = (
    slowloris, half_closed, pipelined_garbage, huge_bodies, huge_heads, slow_readers, silent_crowd,
)  # fmt: skip
