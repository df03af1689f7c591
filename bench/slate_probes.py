"""Clients that read what they are answered: which bundle said so, and whether it was that bundle.

Holds each answer against the slates that bundles gave alone, and against the plans in force.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import httpx

from bench.watched_threads import WatchedThreads
from recsys.errors import FleetError
from recsys.stores.control.control import ControlReader

Slates = Mapping[str, tuple[str, ...]]
"""Items of each user's slate."""

MOST_ABORT_S = 2
"""Within this every gateway follows a plan, so a bundle counts as planned for so long after it."""
N_PROBED_USERS = 60
SLATE = 20
MIN_OVERLAP = 0.9
_PAUSE_S = 0.01
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer, by the client's clock."""

    sent_ms: int
    received_ms: int
    user_id: str
    bundle_id: str
    items: tuple[str, ...]
    degraded: tuple[str, ...] = ()
    """What was left out of the answer: without its scores a slate is in retrieval's order."""


@dataclass(frozen=True, slots=True)
class InForce:
    """Bundles of the traffic plan from then on."""

    since_ms: int
    bundle_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A whole answer that is not its bundle's: how much of each bundle's slate is in it."""

    user_id: str
    bundle_id: str
    sent_ms: int
    overlaps: dict[str, float]


@dataclass(slots=True)
class _Record:
    seen: list[Seen] = field(default_factory=list)
    plans: list[InForce] = field(default_factory=list)
    n_failed: int = 0


class Probes:
    """Clients that ask in turn for a few users until left, and one reader of the plan.

    A probe that dies fails the run: leaving raises what ended it.
    """

    def __init__(
        self, url: str, control_url: str, slates: Mapping[str, Slates], n_clients: int
    ) -> None:
        self._url = url
        self._reader = ControlReader(control_url)
        self._slates = slates
        self._record = _Record()
        self._stopped = threading.Event()
        asking = [partial(self._ask, n) for n in range(n_clients)]
        self._threads = WatchedThreads([*asking, self._follow], self._stopped)

    def __enter__(self) -> Probes:
        self._note_plan()
        self._threads.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.__exit__(kind, error, trace)

    def check(self) -> None:
        """See that all of them still ask and read.

        Raises:
            FleetError: one died, as leaving raises too.
        """
        self._threads.check()

    @property
    def seen(self) -> list[Seen]:
        """Every answer so far."""
        return self._record.seen

    @property
    def n_failed(self) -> int:
        """Requests without an answer of status 200."""
        return self._record.n_failed

    @property
    def mixed(self) -> tuple[Mixed, ...]:
        """Whole answers that are not the slate their bundle gave alone."""
        return tuple(
            Mixed(
                one.user_id,
                one.bundle_id,
                one.sent_ms,
                {name: overlap(one.items, of[one.user_id]) for name, of in self._slates.items()},
            )
            for one in self.seen
            if is_mixed(one, self._slates)
        )

    @property
    def n_degraded(self) -> int:
        """Answers of which a stage was left out, in time or at all; they say so themselves."""
        return sum(bool(one.degraded) for one in self.seen)

    @property
    def n_unplanned(self) -> int:
        """Answers of a bundle that was in no plan from shortly before until they came."""
        return sum(
            one.bundle_id not in planned(self._record.plans, one.sent_ms, one.received_ms)
            for one in self.seen
        )

    def last_ms(self, bundle_id: str) -> int:
        """When the newest request that this bundle answered was sent; 0 if none was."""
        return max((one.sent_ms for one in self.seen if one.bundle_id == bundle_id), default=0)

    def newest_ms(self) -> int:
        """When the newest answered request was sent."""
        return max((one.sent_ms for one in self.seen), default=0)

    def _ask(self, first: int) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as client:
            for n in itertools.count(first):
                if self._stopped.wait(_PAUSE_S):
                    return
                try:
                    self._record.seen.append(_answer(client, str(n % N_PROBED_USERS)))
                except (FleetError, httpx.HTTPError):
                    self._record.n_failed += 1

    def _follow(self) -> None:
        while not self._stopped.wait(_PAUSE_S):
            self._note_plan()

    def _note_plan(self) -> None:
        plan = self._reader.view().plan
        found = () if plan is None else plan.bundle_ids
        plans = self._record.plans
        if not plans or plans[-1].bundle_ids != found:
            plans.append(InForce(time.time_ns() // 1_000_000, found))


def learn_slates(url: str) -> Slates:
    """What the only bundle in force answers to each probed user, whole."""
    with httpx.Client(base_url=url, timeout=10) as client:
        return {str(n): _whole_answer(client, str(n)).items for n in range(N_PROBED_USERS)}


def planned(plans: list[InForce], sent_ms: int, received_ms: int) -> set[str]:
    """Bundles of the plans in force at some moment of a request, or just before it."""
    ends_ms = [plan.since_ms for plan in plans[1:]] + [received_ms + 1]
    earliest_ms = sent_ms - 1_000 * MOST_ABORT_S
    return {
        bundle_id
        for plan, end_ms in zip(plans, ends_ms, strict=True)
        if plan.since_ms <= received_ms and end_ms >= earliest_ms
        for bundle_id in plan.bundle_ids
    }


def is_mixed(one: Seen, slates: Mapping[str, Slates]) -> bool:
    """Whether a whole answer is less of its bundle's own slate than it may be, or more another's.

    Near ties may fall out.
    """
    likeness = {name: overlap(one.items, of[one.user_id]) for name, of in slates.items()}
    own = likeness.pop(one.bundle_id)
    return not one.degraded and (own < MIN_OVERLAP or own <= max(likeness.values(), default=0.0))


def overlap(items: tuple[str, ...], expected: tuple[str, ...]) -> float:
    """The share of the expected items that is there."""
    return len(set(items) & set(expected)) / max(len(expected), 1)


def _whole_answer(client: httpx.Client, user_id: str) -> Seen:
    for _ in range(_ATTEMPTS):
        answer = _answer(client, user_id)
        if not answer.degraded:
            return answer
    raise FleetError(
        f"user {user_id} was answered without {answer.degraded} {_ATTEMPTS} times; "
        "run it on a machine that is quiet"
    )


def _answer(client: httpx.Client, user_id: str) -> Seen:
    sent_ms = time.time_ns() // 1_000_000
    response = client.get("/v1/recommend", params={"user_id": user_id, "k": SLATE})
    if response.status_code != httpx.codes.OK:
        raise FleetError(f"a request was answered with {response.status_code}: {response.text}")
    found = response.json()
    items = tuple(item["item_id"] for item in found["items"])
    received_ms = time.time_ns() // 1_000_000
    degraded = tuple(found["degraded"])
    return Seen(sent_ms, received_ms, user_id, found["bundle_id"], items, degraded)
