"""Clients that ask a service without end while something is done to it, and what they saw."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

N_CLIENTS = 4
PAUSE_S = 0.02
"""Between two requests of a client: the faults are the test, not the load."""
N_USERS = 200
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Seen:
    """One request and what came of it."""

    at_s: float
    """Monotonic, when the answer was there."""
    status: int
    """0 where there was no answer."""
    reason: str
    """Of what is no 200."""
    latency_ms: float
    coverage: float = 0.0
    degraded: tuple[str, ...] = ()
    bundle_id: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out of the answer."""
        return self.status == 200 and not self.degraded and self.coverage == 1.0


def ask(client: httpx.Client, user_id: str) -> Seen:
    """One request; whatever goes wrong is what was seen."""
    began_s = time.monotonic()
    try:
        reply = client.get("/v1/recommend", params={"user_id": user_id, "k": 10})
    except httpx.HTTPError as error:
        now_s = time.monotonic()
        return Seen(now_s, 0, type(error).__name__, 1000 * (now_s - began_s))
    now_s = time.monotonic()
    latency_ms = 1000 * (now_s - began_s)
    if reply.status_code != 200:
        return Seen(now_s, reply.status_code, reply.text[:200], latency_ms)
    body = reply.json()
    if len(body["items"]) != 10:
        return Seen(now_s, 0, f"{len(body['items'])} items, 10 were asked for", latency_ms)
    said = (body["coverage"], tuple(body["degraded"]), body["bundle_id"])
    return Seen(now_s, 200, "", latency_ms, *said)


@dataclass
class Load:
    """What all clients saw, in no strict order."""

    seen: list[Seen] = field(default_factory=list)

    def since(self, from_s: float, until_s: float = float("inf")) -> list[Seen]:
        """What was seen within a time."""
        return [one for one in tuple(self.seen) if from_s <= one.at_s <= until_s]

    @property
    def failed(self) -> Counter[str]:
        """Requests that were not answered as they must be, by what was said instead."""
        return Counter(f"{s.status} {s.reason}".strip() for s in self.seen if s.status != 200)

    @property
    def degraded(self) -> Counter[str]:
        """Answers by what they say was left out."""
        return Counter(reason for one in self.seen for reason in one.degraded)

    @property
    def least_coverage(self) -> float:
        """Of all answers."""
        return min((s.coverage for s in self.seen if s.status == 200), default=0.0)

    def await_answers(self, n: int, timeout_s: float = 60.0) -> None:
        """Return once there are so many more."""
        n_wanted = len(self.seen) + n
        await_that(lambda: len(self.seen) >= n_wanted, f"{n} more answers", timeout_s)

    def await_whole(self, n: int = 20, timeout_s: float = 60.0) -> float:
        """Return once the last `n` answers are whole; when the first of them was given."""
        await_that(lambda: is_settled(self.seen, n), f"{n} whole answers in a row", timeout_s)
        return min(one.at_s for one in self.seen[-n:])


def is_settled(seen: Sequence[Seen], n: int) -> bool:
    """Whether the last answers are whole."""
    return len(seen) >= n and all(one.is_whole for one in seen[-n:])


def await_that(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> float:
    """Return once it holds, with the seconds that took.

    Raises:
        AssertionError: it does not in time.
    """
    began_s, pause = time.monotonic(), threading.Event()
    while not holds():
        if time.monotonic() - began_s > timeout_s:
            raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s")
        pause.wait(_POLL_S)
    return time.monotonic() - began_s


@contextmanager
def under_load(base_url: str, n_clients: int = N_CLIENTS) -> Generator[Load]:
    """Requests of some clients while the body runs."""
    load, over = Load(), threading.Event()

    def work(number: int) -> None:
        with httpx.Client(base_url=base_url, timeout=10) as client:
            n = 0
            while not over.wait(PAUSE_S):
                load.seen.append(ask(client, f"user{(number * 50 + n) % N_USERS}"))
                n += 1

    with ThreadPoolExecutor(n_clients) as pool:
        workers = [pool.submit(work, number) for number in range(n_clients)]
        try:
            yield load
        finally:
            over.set()
        for worker in workers:
            worker.result()
