"""Who is let in: plain slates up to a limit that follows latency, costly ones up to half of it,
nobody who would wait past the own deadline, and whoever asks for health. One writer of how many
are inside.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from recsys.errors import DeadlineExceeded, Overloaded
from recsys.settings import ServeSettings
from serve_app.door.concurrency_limit import ConcurrencyLimit, LimitRules
from serve_app.http.recommend_requests import RecommendRequest

BULK_K = 100
"""Slates of so many items and more come after plain ones, as do those that are explained."""
BULK_SHARE = 0.5
"""Of the limit, for costly requests."""
RETRY_AFTER_S = 3
"""Refused callers are told a time from 1 to this, so that they don't come back together."""


FULL_DETAIL = "more is being answered than can be in time; try again later"
"""It names no figures, so that a refusal is not made anew for each caller."""


class Lane(StrEnum):
    """What a request is, as far as its path tells; in order of who is refused last."""

    HEALTH = "health"
    SLATE = "slate"
    OTHER = "other"
    """Events, catalogue changes, documents: bounded by their bodies and the log's queue."""


OPEN_PER_CEILING = {Lane.HEALTH: float("inf"), Lane.SLATE: 3.0, Lane.OTHER: 2.0}
"""Open exchanges at most, per slate of the ceiling: callers who are slow to send or to read hold
them. Below the 4 from which Serve would let requests wait unanswered."""


class ShedReason(StrEnum):
    """Why a request was refused; a tag of `flywheel_shed`."""

    FULL = "full"
    """As many slates as the limit allows are being answered."""
    OPEN = "open"
    """Too many exchanges are open, most of them waiting for slow callers."""
    BULK = "bulk"
    DEADLINE = "deadline"
    BODIES = "bodies"
    """Too many bodies are on their way in."""


class Refused(Overloaded):
    """Refused at the door, before any work; says nothing of a bundle."""

    def __init__(self, reason: ShedReason, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Wish:
    """What admission has to know of a request."""

    deadline_ms: float
    is_bulk: bool = False

    @classmethod
    def of(cls, request: RecommendRequest, default_deadline_ms: int) -> Wish:
        """The wish of a parsed request."""
        is_bulk = request.explain or request.k >= BULK_K
        return cls(request.deadline_ms or default_deadline_ms, is_bulk)


class Admission:
    """Counts who is inside; not for use from several threads."""

    def __init__(
        self,
        rules: LimitRules,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._limit = ConcurrencyLimit(rules)
        self._ceiling = rules.ceiling
        self._clock_s = clock_s
        self._rng = rng or random.Random()
        self._n_inside = 0
        self._n_open = 0
        self._refused: Counter[tuple[Lane, ShedReason]] = Counter()

    @property
    def n_inside(self) -> int:
        """Slates let in and not yet answered."""
        return self._n_inside

    @property
    def n_open(self) -> int:
        """Requests of any lane whose exchange has not ended."""
        return self._n_open

    @property
    def limit(self) -> int:
        """Slates at once at present, apart from bursts."""
        return self._limit.limit

    def take_refused(self) -> Counter[tuple[Lane, ShedReason]]:
        """How many found no room on arrival since the last call."""
        refused, self._refused = self._refused, Counter()
        return refused

    def retry_after_s(self) -> int:
        """What a refused caller is told, drawn anew each time."""
        return self._rng.randint(1, RETRY_AFTER_S)

    def arrive(self, lane: Lane) -> Seat | None:
        """A seat, to be used as a context; None where there is no room, which is counted.

        Asked with the head of a request alone, so that a refusal costs next to nothing.
        """
        now_s = self._clock_s()
        if self._n_open >= OPEN_PER_CEILING[lane] * self._ceiling:
            self._refused[lane, ShedReason.OPEN] += 1
            return None
        if lane is Lane.SLATE:
            if self._n_inside >= self._limit.bound(self._n_inside, now_s):
                self._refused[lane, ShedReason.FULL] += 1
                return None
            self._n_inside += 1
        self._n_open += 1
        return Seat(self, lane, self._n_inside, now_s)

    def admit(self, seat: Seat, wish: Wish) -> None:
        """Look again at one with a seat, now that it is known what it asks for.

        Raises:
            Refused: it is costly and half of the limit is taken, or its deadline would pass first.
        """
        now_s = self._clock_s()
        n_others = self._n_inside - 1
        most = max(1, int(BULK_SHARE * self._limit.bound(n_others, now_s)))
        if wish.is_bulk and n_others >= most:
            raise self._refusal(
                ShedReason.BULK,
                f"{n_others} requests are being answered, costly ones are let in up to {most}; "
                "try again later",
            )
        waited_ms = (now_s - seat.entered_s) * 1000
        expected_ms = self._limit.expected_ms(n_others, now_s)
        if waited_ms + expected_ms > wish.deadline_ms and expected_ms > 0:
            raise self._refusal(
                ShedReason.DEADLINE,
                f"an answer takes about {expected_ms:.0f} ms now, longer than its deadline of "
                f"{wish.deadline_ms:.0f} ms; try again later or allow more with deadline_ms",
            )

    def step_out(self, seat: Seat) -> None:
        """Give the place of a slate back while its body is on the way."""
        if seat.is_inside:
            seat.is_inside = False
            self._n_inside -= 1
            self._limit.left(self._n_inside, self._clock_s())

    def step_in(self, seat: Seat) -> None:
        """Take a place again; its time begins anew.

        Raises:
            Refused: there is none.
        """
        now_s = self._clock_s()
        if self._n_inside >= self._limit.bound(self._n_inside, now_s):
            raise self._refusal(ShedReason.FULL, FULL_DETAIL)
        self._n_inside += 1
        seat.is_inside, seat.n_seen, seat.entered_s = True, self._n_inside, now_s

    def leave(self, seat: Seat, error: type[BaseException] | None) -> None:
        """Give the place back and learn what it tells of latency; again does nothing."""
        if not seat.is_inside:
            return
        n_seen = seat.n_seen
        self.step_out(seat)
        now_s = self._clock_s()
        waited_ms = (now_s - seat.entered_s) * 1000
        if seat.teaches:
            self._limit.answered(waited_ms, n_seen, now_s)
        elif error is not None and issubclass(error, DeadlineExceeded):
            self._limit.gave_up(waited_ms, n_seen, now_s)

    def close(self, seat: Seat) -> None:
        """The exchange has ended, however; once per seat."""
        self.leave(seat, None)
        self._n_open -= 1

    def _refusal(self, reason: ShedReason, detail: str) -> Refused:
        return Refused(reason, detail, retry_after_s=self.retry_after_s())


class Seat:
    """One request's place inside; as a context it is given back at the end.

    `teaches` is set by whoever knows that its latency is that of a plain answer by stable.
    """

    __slots__ = ("_admission", "entered_s", "is_inside", "n_seen", "teaches")

    def __init__(self, admission: Admission, lane: Lane, n_seen: int, entered_s: float) -> None:
        self._admission = admission
        self.n_seen = n_seen
        self.entered_s = entered_s
        """When it came, on the clock of the admission."""
        self.is_inside = lane is Lane.SLATE
        self.teaches = False

    def admit(self, wish: Wish) -> None:
        """See `Admission.admit`."""
        self._admission.admit(self, wish)

    def step_out(self) -> None:
        """See `Admission.step_out`."""
        self._admission.step_out(self)

    def step_in(self) -> None:
        """See `Admission.step_in`."""
        self._admission.step_in(self)

    def close(self) -> None:
        """See `Admission.close`."""
        self._admission.close(self)

    def __enter__(self) -> Seat:
        """Sit; the place was taken by `Admission.arrive`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave, however; `close` is still to be called."""
        self._admission.leave(self, kind)


def admission_of(settings: ServeSettings) -> Admission:
    """The admission of a gateway with these settings."""
    return Admission(
        LimitRules.of(
            floor=settings.min_concurrent,
            working=settings.max_batch * settings.max_batches_in_flight,
            ceiling=settings.max_concurrent,
            deadline_ms=settings.deadline_ms,
        )
    )
