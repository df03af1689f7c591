"""Live traffic over HTTP: many users at once ask for slates, react, and send what they did.

One thread per connection; a user's visits stay on one connection, so they keep their order.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.demo.demo_audience import Audience
from cluster.endpoint import key_headers
from recsys.types import Item

N_CONNECTIONS = 16
SLATE_LENGTH = 10
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Visit:
    """One look of one user; visits of equal `luck` meet equal draws."""

    user_id: str
    luck: tuple[int, ...]


def visits_of(user_ids: Sequence[str], part: int, turn: int) -> list[Visit]:
    """One visit of every user, with luck of its own."""
    return [Visit(user_id, (part, turn, place)) for place, user_id in enumerate(user_ids)]


@dataclass(frozen=True, slots=True)
class ShownSlate:
    """One answered slate and what became of it."""

    user_id: str
    bundle_id: str
    n_items: int
    n_clicks: int
    luck: tuple[int, ...] = ()
    """Of the visit it answered."""


@dataclass
class TrafficLog:
    """What happened so far; one per connection, added up at the end."""

    shown: list[ShownSlate] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    n_requests: int = 0
    n_events: int = 0
    unsent: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: TrafficLog) -> None:
        """Take over everything another log holds."""
        self.shown += other.shown
        self.failures += other.failures
        self.n_requests += other.n_requests
        self.n_events += other.n_events
        self.unsent += other.unsent

    @property
    def n_failed(self) -> int:
        """Requests without the answer they asked for."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Manner:
    """How visits go."""

    sends: bool = True
    """Events are sent at once; otherwise they are kept in `TrafficLog.unsent`."""
    remembers: bool = True
    n_discoveries: int = 2
    """So many items a user finds by itself after looking at the slate: the log must not hold
    only what the bundle that serves chose to show."""


class Door:
    """One connection to the service, kept open, with the log of what went over it."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        self.log = TrafficLog()

    def ask(self, method: str, path: str, document: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer's document; None, and a counted failure, if it is no success."""
        self.log.n_requests += 1
        try:
            body = json.dumps(document).encode()
            headers = {"content-type": "application/json", **key_headers()}
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
            if response.status < 300:
                answer: dict[str, Any] = json.loads(content) if content else {}
                return answer
            self.log.failures[f"{method} {path.split('?')[0][:20]}: {response.status}"] += 1
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.log.failures[f"{method} {path[:20]}: {type(error).__name__}"] += 1
            self._connection.close()  # the next request opens it anew
        return None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Traffic:
    """Visits of one audience to one service."""

    host: str
    port: int
    audience: Audience
    now_ms: int
    """The moment at which the audience lives, whatever the clock says."""

    def run(
        self,
        visits: Sequence[Visit],
        manner: Manner,
        is_over: Callable[[], bool] = lambda: False,
    ) -> TrafficLog:
        """All visits, `N_CONNECTIONS` at a time, until they are done or it is over."""
        shares: list[list[Visit]] = [[] for _ in range(N_CONNECTIONS)]
        lane_of: dict[str, int] = {}
        for visit in visits:
            lane = lane_of.setdefault(visit.user_id, len(lane_of) % N_CONNECTIONS)
            shares[lane].append(visit)
        interrupted = threading.Event()

        def walk(share: list[Visit]) -> TrafficLog:
            door = Door(self.host, self.port)
            for visit in share:
                if is_over() or interrupted.is_set():
                    break
                self._visit(door, visit, manner)
            door.close()
            return door.log

        total = TrafficLog()
        with ThreadPoolExecutor(N_CONNECTIONS) as pool:
            try:
                for log in pool.map(walk, shares):
                    total.add(log)
            finally:
                interrupted.set()
        return total

    @contextmanager
    def going_on(self, rounds: Callable[[int], Sequence[Visit]]) -> Generator[TrafficLog]:
        """Traffic in the background while the block runs; its log is whole after the block.

        Args:
            rounds: the visits of round 0, 1, ...
        """
        over = threading.Event()
        total = TrafficLog()

        def keep_on() -> None:
            turn = 0
            while not over.is_set():
                total.add(self.run(rounds(turn), Manner(), over.is_set))
                turn += 1

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(keep_on)
            try:
                yield total
            finally:
                over.set()
                running.result()

    def put_items(self, items: Sequence[Item]) -> TrafficLog:
        """Tell the service of new items."""
        door = Door(self.host, self.port)
        for item in items:
            document = {
                "title": item.title,
                "categories": list(item.categories),
                "creator": item.creator,
                "created_at": item.created_ms,
            }
            door.ask("PUT", f"/v1/items/{item.item_id}", document)
        door.close()
        return door.log

    def send(self, events: Sequence[Mapping[str, Any]]) -> TrafficLog:
        """Send events that were kept."""
        door = Door(self.host, self.port)
        for first in range(0, len(events), 500):
            _send(door, events[first : first + 500])
        door.close()
        return door.log

    def _visit(self, door: Door, visit: Visit, manner: Manner) -> None:
        answer = door.ask("POST", "/v1/recommend", {"user_id": visit.user_id, "k": SLATE_LENGTH})
        if answer is None:
            return
        rng = np.random.default_rng(visit.luck)
        slate = [str(item["item_id"]) for item in answer["items"]]
        reactions = self.audience.react(
            visit.user_id, slate, self.now_ms, rng, remember=manner.remembers
        )
        events: list[dict[str, Any]] = [
            {
                "kind": reaction.kind,
                "user_id": visit.user_id,
                "item_id": reaction.item_id,
                "request_id": answer["request_id"],
                "position": reaction.position,
            }
            for reaction in reactions
        ]
        n_clicks = sum(reaction.kind == "click" for reaction in reactions)
        bundle_id = str(answer["bundle_id"])
        shown = ShownSlate(visit.user_id, bundle_id, len(slate), n_clicks, visit.luck)
        door.log.shown.append(shown)
        for _ in range(manner.n_discoveries):
            found = self.audience.discover(visit.user_id, self.now_ms, rng)
            if found is not None:
                events.append({"kind": "click", "user_id": visit.user_id, "item_id": found})
        if not manner.sends:
            door.log.unsent += events
        elif events:
            _send(door, events)


def _send(door: Door, events: Sequence[Mapping[str, Any]]) -> None:
    answer = door.ask("POST", "/v1/events", {"events": list(events)})
    door.log.n_events += 0 if answer is None else int(answer["accepted"])
