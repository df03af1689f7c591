"""A discrete-event simulation of the request graph's queues. Pure: a seed gives one result.

Requests arrive as a Poisson process and pass the stations in order. A station has parts (shards),
each with replicas; a request goes to one replica of every part, the one with the fewest
outstanding requests, and goes on once all parts have answered. A replica answers one batch at a
time, of all that waits for it up to the largest batch.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Noise = Callable[[np.random.Generator], float]
"""A factor of a batch's time."""


def steady(_: np.random.Generator) -> float:
    """Every batch of a size takes the same time."""
    return 1.0


def exponential(rng: np.random.Generator) -> float:
    """Of mean 1: the service times of M/M/c."""
    return float(rng.exponential())


@dataclass(frozen=True, slots=True)
class Station:
    """One stage: how it is laid out, and the time of a batch in seconds."""

    name: str
    fixed_s: float
    each_s: float
    n_replicas: int
    n_parts: int = 1
    max_batch: int = 64
    noise: Noise = steady


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of the requests."""

    latency_s: NDArray[np.float64]
    """Of those that were answered, in order of answers, without those of the warm-up."""
    n_late: int
    """Requests whose deadline had passed when they were to begin somewhere; they are given up."""
    utilisation: dict[str, float]
    """Busy share of the replicas, by station."""


@dataclass(slots=True)
class _Replica:
    waiting: deque[int] = field(default_factory=deque)
    n_outstanding: int = 0
    is_busy: bool = False
    busy_s: float = 0.0


def simulate(
    stations: Sequence[Station],
    requests_per_s: float,
    n_requests: int,
    seed: int,
    *,
    deadline_s: float = float("inf"),
    warm_up: float = 0.2,
) -> Simulated:
    """Let so many requests through.

    Args:
        warm_up: the share of the first requests whose latencies are left out.
    """
    return _Run(stations, requests_per_s, n_requests, seed, deadline_s).whole(warm_up)


class _Run:
    """One simulation: events in order of time, ties in order of their making."""

    def __init__(
        self,
        stations: Sequence[Station],
        requests_per_s: float,
        n_requests: int,
        seed: int,
        deadline_s: float,
    ) -> None:
        self._stations = stations
        self._rng = np.random.default_rng(seed)
        gaps = self._rng.exponential(1 / requests_per_s, n_requests)
        self._arrived_s = np.cumsum(gaps)
        self._deadline_s = deadline_s
        self._replicas = [
            [[_Replica() for _ in range(one.n_replicas)] for _ in range(one.n_parts)]
            for one in stations
        ]
        self._parts_left = np.zeros(n_requests, np.int64)
        self._is_given_up = np.zeros(n_requests, np.bool_)
        self._events: list[tuple[float, int, tuple[int, int, _Replica, list[int]] | int]] = []
        self._n_events = 0
        self._answers: list[tuple[int, float]] = []
        self._now_s = 0.0

    def whole(self, warm_up: float) -> Simulated:
        """Run it to its end."""
        for request, at_s in enumerate(self._arrived_s):
            self._push(float(at_s), request)
        while self._events:
            self._now_s, _, event = heapq.heappop(self._events)
            if isinstance(event, int):
                self._enter(event, 0)
            else:
                self._finish(*event)
        first = warm_up * len(self._arrived_s)
        latency_s = np.asarray([s for request, s in self._answers if request >= first])
        busy = {
            station.name: sum(replica.busy_s for part in parts for replica in part)
            / (station.n_parts * station.n_replicas * self._now_s)
            for station, parts in zip(self._stations, self._replicas, strict=True)
        }
        return Simulated(latency_s, int(self._is_given_up.sum()), busy)

    def _push(self, at_s: float, event: tuple[int, int, _Replica, list[int]] | int) -> None:
        heapq.heappush(self._events, (at_s, self._n_events, event))
        self._n_events += 1

    def _enter(self, request: int, at: int) -> None:
        if at == len(self._stations):
            self._answers.append((request, self._now_s - float(self._arrived_s[request])))
            return
        self._parts_left[request] = self._stations[at].n_parts
        for part, replicas in enumerate(self._replicas[at]):
            replica = self._least_outstanding(replicas)
            replica.n_outstanding += 1
            replica.waiting.append(request)
            if not replica.is_busy:
                self._begin(at, part, replica)

    def _least_outstanding(self, replicas: list[_Replica]) -> _Replica:
        # As the links choose; of equals a random one, where the links take turns.
        least = min(replica.n_outstanding for replica in replicas)
        equals = [replica for replica in replicas if replica.n_outstanding == least]
        return equals[int(self._rng.integers(len(equals)))] if len(equals) > 1 else equals[0]

    def _begin(self, at: int, part: int, replica: _Replica) -> None:
        station, batch = self._stations[at], list[int]()
        while replica.waiting and len(batch) < station.max_batch:
            request = replica.waiting.popleft()
            if self._is_late(request):
                self._is_given_up[request] = True
                replica.n_outstanding -= 1
            else:
                batch.append(request)
        replica.is_busy = bool(batch)
        if batch:
            time_s = (station.fixed_s + station.each_s * len(batch)) * station.noise(self._rng)
            replica.busy_s += time_s
            self._push(self._now_s + time_s, (at, part, replica, batch))

    def _is_late(self, request: int) -> bool:
        if self._is_given_up[request]:
            return True
        return bool(self._now_s - self._arrived_s[request] > self._deadline_s)

    def _finish(self, at: int, part: int, replica: _Replica, batch: list[int]) -> None:
        replica.n_outstanding -= len(batch)
        self._begin(at, part, replica)
        for request in batch:
            self._parts_left[request] -= 1
            if not self._parts_left[request] and not self._is_given_up[request]:
                self._enter(request, at + 1)
