"""A simulated gateway: arrivals, admission, and micro-batches that drain on idle, in virtual time.

A batch takes a fixed time and a time per request, so latency grows with concurrency while nothing
waits; each refusal lengthens the next batch, since it costs the same processor.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from recsys.errors import DeadlineExceeded
from serve_app.door.admission import Admission, Lane, Refused, Seat, Wish
from serve_app.door.concurrency_limit import LimitRules


@dataclass(frozen=True)
class Served:
    """One answered request, times in seconds."""

    arrived_s: float
    latency_s: float


@dataclass
class BatchedQueue:
    """The server; `slowness` multiplies the time of a batch that starts at a time."""

    rules: LimitRules
    max_batch: int = 64
    n_slots: int = 2
    fixed_s: float = 0.02
    each_s: float = 0.004
    refusal_s: float = 0.0002
    deadline_s: float = 1.0
    slowness: Callable[[float], float] = lambda now_s: 1.0
    now_s: float = 0.0
    answered: list[Served] = field(default_factory=list)
    refused_at_s: list[float] = field(default_factory=list)
    expired_at_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admission = Admission(self.rules, clock_s=lambda: self.now_s, rng=random.Random(1))
        self._pending: deque[Seat] = deque()
        self._running: list[tuple[float, int, list[Seat]]] = []
        self._debt_s = 0.0
        self._n_batches = 0

    @property
    def capacity(self) -> float:
        """Requests per second with full batches in every slot."""
        batch_s = self.fixed_s + self.each_s * self.max_batch
        return self.n_slots * self.max_batch / batch_s

    def run(self, arrivals: Iterator[float], wish: Wish | None = None) -> None:
        """Let requests arrive at those times, in order, and answer all that were let in."""
        wish = wish or Wish(self.deadline_s * 1000)
        for at_s in arrivals:
            self._until(at_s)
            self.now_s = at_s
            self._arrive(wish)
        self._until(float("inf"))

    def goodput(self, from_s: float, to_s: float) -> float:
        """Answers per second in that time."""
        n = sum(from_s <= one.arrived_s + one.latency_s < to_s for one in self.answered)
        return n / (to_s - from_s)

    def latency_s(self, share: float, from_s: float, to_s: float) -> float:
        """That quantile of the latency of requests that arrived in that time."""
        found = sorted(one.latency_s for one in self.answered if from_s <= one.arrived_s < to_s)
        return found[min(len(found) - 1, int(share * len(found)))] if found else 0.0

    def refused(self, from_s: float, to_s: float) -> int:
        """Requests refused in that time."""
        return sum(from_s <= at_s < to_s for at_s in self.refused_at_s)

    def _arrive(self, wish: Wish) -> None:
        seat = self.admission.arrive(Lane.SLATE)
        try:
            if seat is not None:
                seat.admit(wish)
        except Refused:
            seat.close()
            seat = None
        if seat is None:
            self.refused_at_s.append(self.now_s)
            self._debt_s += self.refusal_s
            return
        self._pending.append(seat)
        self._drain()

    def _until(self, to_s: float) -> None:
        while self._running and self._running[0][0] <= to_s:
            self.now_s, _, seats = heapq.heappop(self._running)
            for seat in seats:
                self._settle(seat)
            self._drain()

    def _settle(self, seat: Seat) -> None:
        latency_s = self.now_s - seat.entered_s
        if latency_s > self.deadline_s:
            self.expired_at_s.append(self.now_s)
            self.admission.leave(seat, DeadlineExceeded)
            seat.close()
            return
        seat.teaches = True
        seat.close()
        self.answered.append(Served(seat.entered_s, latency_s))

    def _drain(self) -> None:
        while self._pending and len(self._running) < self.n_slots:
            seats = [
                self._pending.popleft() for _ in range(min(self.max_batch, len(self._pending)))
            ]
            batch_s = self.fixed_s + self.each_s * len(seats)
            took_s = batch_s * self.slowness(self.now_s) + self._debt_s
            self._debt_s = 0.0
            self._n_batches += 1
            heapq.heappush(self._running, (self.now_s + took_s, self._n_batches, seats))


def poisson(rng: random.Random, rate: float, from_s: float, to_s: float) -> Iterator[float]:
    """Arrival times of independent callers."""
    at_s = from_s + rng.expovariate(rate)
    while at_s < to_s:
        yield at_s
        at_s += rng.expovariate(rate)
