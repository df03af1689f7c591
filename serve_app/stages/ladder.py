"""What is left out while requests wait too long: the ladder of a bundle's answers. Pure.

A standing queue is told from a burst as CoDel does (Nichols and Jacobson, 2012): by the least wait
of an interval, since a queue that empties now and then is no overload.
"""

from __future__ import annotations

from enum import IntEnum

STEP_S = 0.25
"""Waits are judged together over so long; one rung at most is climbed in it."""
MIN_BATCHES = 3
"""Fewer in an interval say nothing: one slow batch is no queue."""
CALM_S = 1.0
"""A rung is left after so long with short waits, or with nobody asking."""


class Rung(IntEnum):
    """How much less an answer is made of; each leaves out what those before it do."""

    WHOLE = 0
    FEWER = 1
    """Half as many candidates are retrieved and scored."""
    UNSCORED = 2
    """The order of retrieval stands; the scorer only encodes users."""
    POPULAR = 3
    """What is popular, trending, new and goes together; no stage is asked."""

    @property
    def reason(self) -> str:
        """As it stands in `degraded`."""
        return f"ladder: {_WORDS[self]}"


_WORDS = {
    Rung.WHOLE: "whole",
    Rung.FEWER: "fewer candidates",
    Rung.UNSCORED: "not scored",
    Rung.POPULAR: "popular items",
}


class Ladder:
    """The rung that batches of one bundle are answered on.

    Args:
        wait_s: requests that wait longer, again and again, are too many; 0 keeps answers whole.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._rung = Rung.WHOLE
        self._seen_s: float | None = None
        self._calm_since_s = 0.0
        self._began_s = 0.0
        self._n_batches = 0
        self._least_s = float("inf")

    def rung(self, waited_s: float, now_s: float) -> Rung:
        """Take in how long the first request of a batch has waited; what to answer the batch by.

        Args:
            now_s: monotonic; never falls.
        """
        if self._wait_s <= 0:
            return Rung.WHOLE
        if self._seen_s is None or now_s - self._seen_s >= CALM_S:
            self._rest(now_s)
        self._seen_s = now_s
        self._n_batches += 1
        self._least_s = min(self._least_s, waited_s)
        if waited_s > self._wait_s / 2:
            self._calm_since_s = now_s
        if now_s - self._began_s >= STEP_S and self._n_batches >= MIN_BATCHES:
            if self._least_s > self._wait_s:
                self._rung = Rung(min(self._rung + 1, Rung.POPULAR))
            self._begin(now_s)
        if now_s - self._calm_since_s >= CALM_S and self._rung > Rung.WHOLE:
            self._rung = Rung(self._rung - 1)
            self._calm_since_s = now_s
        return self._rung

    def _rest(self, now_s: float) -> None:
        """Nobody asked for a while, or ever."""
        n_left = 0 if self._seen_s is None else int((now_s - self._seen_s) / CALM_S)
        self._rung = Rung(max(self._rung - n_left, Rung.WHOLE))
        self._calm_since_s = now_s
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        """A new interval."""
        self._began_s = now_s
        self._n_batches = 0
        self._least_s = float("inf")


def n_candidates_on(rung: Rung, n_candidates: int, *, most_asked: int) -> int:
    """Candidates per request: half as many where fewer must do, and never less than asked for."""
    if rung < Rung.FEWER:
        return n_candidates
    return min(n_candidates, max(n_candidates // 2, most_asked))
