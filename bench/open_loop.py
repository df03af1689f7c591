"""Requests at a given rate whatever the answers do, over many kept connections to loopback.

One process and raw sockets, so that it costs far less than the service it asks. Latency counts
from when a request was due, so a client that falls behind does not flatter the service.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

Times: TypeAlias = NDArray[np.float64]

MAX_CONNECTIONS = 2_000
TICK_S = 0.005
DRAIN_S = 10.0
"""Time for what is under way when the load ends."""
LOST = 0
"""Status of a request whose connection ended."""
_BEHIND_S = 0.5
"""A request that cannot be sent for so long is given up and counted."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A rate for a time."""

    requests_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run saw, in order of answers: (n,) each."""

    due_s: Times
    """Since the run began."""
    latency_ms: Times
    status: NDArray[np.int64]
    n_unsent: int
    """Requests the client itself could not send in time; above 0 the rate was not reached."""

    def during(self, from_s: float, to_s: float) -> Seen:
        """Of the requests that were due in that time."""
        kept = (self.due_s >= from_s) & (self.due_s < to_s)
        return Seen(self.due_s[kept], self.latency_ms[kept], self.status[kept], self.n_unsent)

    def latencies_of(self, status: int) -> Times:
        """Of the answers with that status, in ms."""
        chosen: Times = self.latency_ms[self.status == status]
        return chosen


def complete_status(received: bytes) -> int | None:
    """The status of a whole HTTP/1.1 response with a content-length; None while parts miss."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return None
    start = at + len(b"\r\ncontent-length:")
    stop = head.find(b"\r\n", start)
    length = int(head[start : stop if stop >= 0 else end])
    return int(received[9:12]) if len(received) >= end + 4 + length else None


def phase_due_s(phases: list[Phase]) -> Times:
    """When each request is due, evenly spaced within its phase: (n,) in s."""
    parts, began_s = [], 0.0
    for phase in phases:
        n_requests = int(phase.requests_per_s * phase.seconds)
        parts.append(began_s + np.arange(n_requests) / phase.requests_per_s)
        began_s += phase.seconds
    return np.concatenate(parts)


class _Connection(asyncio.Protocol):
    """One kept connection with one request under way at most."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""
        self.transport: asyncio.Transport | None = None
        self.due_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, due_s: float) -> None:
        assert self.transport is not None
        self.due_s = due_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        status = complete_status(self._received)
        if status is None or self.due_s is None:
            return
        due_s, self._received, self.due_s = self.due_s, b"", None
        self._run.answered(due_s, status)
        self._run.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._run.n_open -= 1
        if self.due_s is not None:
            self._run.answered(self.due_s, LOST)
            self.due_s = None


@dataclass
class _Run:
    """One load under way."""

    host: str
    port: int
    requests: list[bytes]
    rng: random.Random
    idle: deque[_Connection] = field(default_factory=deque)
    n_open: int = 0
    n_unsent: int = 0
    found: list[tuple[float, float, int]] = field(default_factory=list)
    waiting: deque[float] = field(default_factory=deque)
    began_s: float = 0.0

    def now_s(self) -> float:
        return asyncio.get_running_loop().time() - self.began_s

    def answered(self, due_s: float, status: int) -> None:
        self.found.append((due_s, (self.now_s() - due_s) * 1000, status))

    async def send(self, due_s: Times) -> None:
        self.began_s = asyncio.get_running_loop().time()
        opening: set[asyncio.Task[None]] = set()
        times = deque(due_s.tolist())
        while times or self.waiting:
            now_s = self.now_s()
            while times and times[0] <= now_s:
                self.waiting.append(times.popleft())
            while self.waiting and self._ask_idle(self.waiting[0]):
                self.waiting.popleft()
            while self.waiting and now_s - self.waiting[0] > _BEHIND_S:
                self.waiting.popleft()
                self.n_unsent += 1
            n_missing = min(len(self.waiting) - len(opening), MAX_CONNECTIONS - self.n_open)
            for _ in range(n_missing):
                self.n_open += 1
                task = asyncio.create_task(self._open())
                opening.add(task)
                task.add_done_callback(opening.discard)
            await asyncio.sleep(TICK_S)
        await asyncio.gather(*opening)

    async def drain(self, n_sent: int) -> None:
        give_up_s = self.now_s() + DRAIN_S
        while len(self.found) < n_sent - self.n_unsent and self.now_s() < give_up_s:
            await asyncio.sleep(TICK_S)
        n_lost = n_sent - self.n_unsent - len(self.found)
        # They count as never answered, so that nobody takes them for fast.
        self.found += [(self.now_s() - DRAIN_S, DRAIN_S * 1000, LOST)] * n_lost
        for connection in self.idle:
            if connection.transport is not None:
                connection.transport.close()

    def _ask_idle(self, due_s: float) -> bool:
        while self.idle:
            connection = self.idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.ask(self.rng.choice(self.requests), due_s)
                return True
        return False

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), self.host, self.port
            )
        except OSError:
            self.n_open -= 1
            return
        self.idle.append(connection)


def send_load(host: str, port: int, paths: list[str], phases: list[Phase], seed: int = 0) -> Seen:
    """GET `paths` at random by the phases, one after the other, and wait for the answers."""
    requests = [f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode() for path in paths]
    run = _Run(host, port, requests, random.Random(seed))
    due_s = phase_due_s(phases)

    async def whole() -> None:
        await run.send(due_s)
        await run.drain(len(due_s))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())
    columns = np.asarray(run.found, np.float64).reshape(-1, 3)
    status: NDArray[np.int64] = columns[:, 2].astype(np.int64)
    return Seen(columns[:, 0], columns[:, 1], status, run.n_unsent)
