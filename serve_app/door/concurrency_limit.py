"""How many requests a gateway works on at once, learned from how long its answers take.

After Gradient2 of Netflix's concurrency-limits, whose measure is TCP Vegas' (Brakmo and Peterson
1995): the limit follows usual / recent latency. Batches make latency grow with concurrency while
nothing waits, so the usual latency is that of full batches: by Little's law, latency per request
inside times the requests that full batches hold. Pure: it reads no clock and counts nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, median

WINDOW_S = 0.1
MIN_ANSWERS = 16
"""Of one window: fewer say little."""
PAUSE_S = 1.0
"""What is older than such a pause says nothing of now."""
TOLERANCE = 2.25
"""Recent latency over the usual one from which the limit falls."""
SLOWEST_SHARE = 0.6
"""Of a request's deadline: slower answers are never tolerable."""
_LEAST_GRADIENT = 0.5
_OUTLIER = 4.0
"""Slower than so many medians is taken for that."""
_SETTLES_S = 0.5
"""Time in which the limit goes the whole way to where it should be."""
_USUAL_FALLS = 0.1
"""Weight of a window in which answers were faster than usual."""
_USUAL_RISES_S = 20.0
"""Time in which slower answers become the usual ones."""
CALM_S = 0.25
BURST_S = 0.05
"""After a calm, requests may come together for so long (the interval of CoDel, Nichols and
Jacobson 2012: a queue that drains is no overload)."""


@dataclass(frozen=True, slots=True)
class LimitRules:
    """Where the limit may be; 1 <= floor <= working <= ceiling."""

    floor: int
    working: int
    """Requests that running batches hold when full."""
    ceiling: int
    slowest_ms: float
    """Mean latency that is never tolerable."""

    @classmethod
    def of(cls, floor: int, working: int, ceiling: int, deadline_ms: float) -> LimitRules:
        """Rules in order, whatever was asked for: the ceiling wins, then the floor."""
        least = min(floor, ceiling)
        kept = max(least, min(working, ceiling))
        return cls(least, kept, ceiling, SLOWEST_SHARE * deadline_ms)

    @property
    def start(self) -> int:
        """Where the limit is while everything is as usual."""
        return min(self.ceiling, int(TOLERANCE * self.working))


@dataclass(slots=True)
class _Window:
    """Answers that came together; times in ms."""

    started_s: float
    newest_s: float
    latencies: list[float] = field(default_factory=list)
    n_answered: int = 0
    n_seen: int = 0
    most_seen: int = 0

    def is_whole(self, now_s: float) -> bool:
        return now_s - self.started_s >= WINDOW_S and len(self.latencies) >= MIN_ANSWERS

    def take(self, latency_ms: float, n_seen: int) -> None:
        self.latencies.append(latency_ms)
        self.n_seen += n_seen
        self.most_seen = max(self.most_seen, n_seen)


class ConcurrencyLimit:
    """The limit of one gateway; `now_s` is any clock that never goes back."""

    def __init__(self, rules: LimitRules) -> None:
        self._rules = rules
        self._limit = float(rules.start)
        self._usual_ms: float | None = None
        self._looked_at_s = -math.inf
        self._window: _Window | None = None
        self._adapted_at_s = -math.inf
        self._recent_ms = 0.0
        self._recent_seen = 0.0
        self._recent_at_s = -math.inf
        self._is_busy = False
        self._calm_from_s = -math.inf
        self._burst_until_s = -math.inf

    @property
    def limit(self) -> int:
        """Requests at once, apart from bursts."""
        return int(self._limit)

    @property
    def usual_ms(self) -> float | None:
        """Latency of full batches without waiting; None until batches were filled."""
        return self._usual_ms

    def bound(self, n_inside: int, now_s: float) -> int:
        """How many may be inside when one more comes and finds `n_inside`."""
        if n_inside > self._limit / 4 and not self._is_busy:
            self._is_busy = True
            if now_s - self._calm_from_s > CALM_S:
                self._burst_until_s = now_s + BURST_S
        if now_s < self._burst_until_s:
            return self._rules.ceiling
        return self.limit

    def left(self, n_inside: int, now_s: float) -> None:
        """One has left, so many remain: told by who leaves, a loop that stalls is not calm."""
        if self._is_busy and n_inside <= self._limit / 4:
            self._is_busy = False
            self._calm_from_s = now_s

    def expected_ms(self, n_inside: int, now_s: float) -> float:
        """How long one more would take at least; 0 where nothing recent tells, or few are inside.

        Little's law: latency grows with concurrency where throughput does not.
        """
        is_known = now_s - self._recent_at_s <= PAUSE_S
        if not is_known or n_inside < self._rules.floor:
            return 0.0
        without_wait = max(self._recent_seen, self._rules.working)
        return self._recent_ms * max(1.0, (n_inside + 1) / without_wait)

    def answered(self, latency_ms: float, n_seen: int, now_s: float) -> None:
        """Learn from an answer.

        Args:
            n_seen: requests inside when it came, itself included.
        """
        window = self._window_at(now_s)
        window.n_answered += 1
        window.take(latency_ms, n_seen)

    def gave_up(self, waited_ms: float, n_seen: int, now_s: float) -> None:
        """Learn from a request whose deadline passed: it would have taken longer still.

        One that would not have waited as long as is tolerable says nothing.
        """
        if waited_ms >= self._tolerable_ms():
            self._window_at(now_s).take(waited_ms, n_seen)

    def _window_at(self, now_s: float) -> _Window:
        window = self._window
        # A whole batch is answered in one moment, so a window ends when the next answer comes.
        if window is not None and window.is_whole(now_s):
            self._close(window)
            window = None
        elif window is not None and now_s - window.newest_s > PAUSE_S:
            window = None
        if window is None:
            window = self._window = _Window(now_s, now_s)
        window.newest_s = now_s
        return window

    def _close(self, window: _Window) -> None:
        # Little's law is of means; a few slow answers must move nothing.
        most_ms = _OUTLIER * median(window.latencies)
        self._recent_ms = fmean(min(one, most_ms) for one in window.latencies)
        self._recent_seen = window.n_seen / len(window.latencies)
        self._recent_at_s = window.newest_s
        working = self._rules.working
        # Of small batches the fixed part of the time would be taken for the whole, and those
        # that gave up would have taken longer.
        is_filled = self._recent_seen >= min(working, self.limit) / 2
        if is_filled and window.n_answered == len(window.latencies):
            self._look(self._recent_ms * working / self._recent_seen, window.newest_s)
        # A limit that is not reached is neither too high nor too low.
        if window.most_seen >= self._limit / 2:
            self._adapt(window.newest_s)

    def _look(self, full_ms: float, now_s: float) -> None:
        usual_ms = full_ms if self._usual_ms is None else self._usual_ms
        share = _USUAL_FALLS
        if full_ms > usual_ms:
            share = -math.expm1(-min(now_s - self._looked_at_s, PAUSE_S) / _USUAL_RISES_S)
        self._usual_ms = usual_ms + share * (full_ms - usual_ms)
        self._looked_at_s = now_s

    def _adapt(self, now_s: float) -> None:
        if self._usual_ms is None and self._recent_ms <= self._rules.slowest_ms:
            return
        gradient = min(1.0, max(_LEAST_GRADIENT, self._tolerable_ms() / max(self._recent_ms, 1e-9)))
        aim = self._limit * gradient + math.sqrt(self._limit)
        share = min(1.0, (now_s - self._adapted_at_s) / _SETTLES_S)
        moved = self._limit + share * (aim - self._limit)
        self._adapted_at_s = now_s
        self._limit = min(float(self._rules.ceiling), max(float(self._rules.floor), moved))

    def _tolerable_ms(self) -> float:
        slowest_ms = self._rules.slowest_ms
        return slowest_ms if self._usual_ms is None else min(TOLERANCE * self._usual_ms, slowest_ms)
