"""A loop in a thread that follows the event log and goes on after any failure.

Knows turns, pauses, counts and health; what a turn does is the follower's, and which partitions it
does it for is told at each turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from train_app.following.waiting import Waiting

_log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
STUCK_AFTER_S = 30.0
"""A loop without a good turn for so long is not healthy."""
LAG_EVERY_S = 1.0
REPORT_EVERY_S = 60.0


class Follower(Protocol):
    """Takes records of the log into a store of its own, each record once.

    Any number may be alive on one store: each turn starts from the offsets stored there.
    """

    n_bad: int
    """Records skipped because they are no event."""
    n_missed: int
    """Records that were gone from the log before they could be read."""
    n_repeated: int
    """Records whose event had been counted before."""

    def run_once(self, partitions: Collection[int]) -> int:
        """Take in what is new in these partitions, up to a bound; the number of records taken.

        Raises:
            StoreError: nothing was changed; the next turn starts from what is stored.
        """

    def lag(self, partitions: Collection[int]) -> int:
        """Records of these partitions that are not taken in yet."""

    def close(self) -> None:
        """Give the store back."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a loop has come since its start."""

    n_records: int = 0
    lag_records: int = 0
    """As counted about a second ago."""
    freshness_s: float = 0.0
    """How long the oldest record that is not taken in has waited, as far as was seen."""
    n_bad: int = 0
    n_missed: int = 0
    n_repeated: int = 0
    problem: str = ""
    """Why the last turn failed; empty after a good one."""


class FollowLoop:
    """Turns a follower until stopped; one that failed is closed and opened anew.

    Args:
        name: for the log lines of this process.
        open_follower: opens it, in the loop's own thread.
        share: the partitions to follow now.
        poll_interval_s: the pause after a turn that found nothing.
        gather_s: the pause after a turn that came near the log's end, so that the next has more
            to take: most of a small turn's cost is the turn's own. 0 is none.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        open_follower: Callable[[], Follower],
        share: Callable[[], frozenset[int]],
        poll_interval_s: float,
        gather_s: float = 0.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._open_follower = open_follower
        self._share = share
        self._poll_interval_s = max(poll_interval_s, gather_s)
        self._gather_s = gather_s
        self._clock_s = clock_s
        self._stopping = threading.Event()
        self._last_good_s = clock_s()
        self._backoff_s = 0.0
        self._lag_due_s = self._report_due_s = 0.0
        self._partitions: frozenset[int] = frozenset()
        self._waiting = Waiting()
        self._of_closed = self._progress = Progress()
        self._thread = threading.Thread(target=self._run, name=f"follow-{name}", daemon=True)
        self._thread.start()

    def progress(self) -> Progress:
        """How far it has come."""
        return self._progress

    def problem(self) -> str | None:
        """Why the loop is not healthy; None where it is."""
        reason = self._progress.problem
        if not self._thread.is_alive():
            return f"the {self._name} follower has ended: {reason or 'it was stopped'}"
        silent_s = self._clock_s() - self._last_good_s
        if silent_s < STUCK_AFTER_S:
            return None
        return (
            f"the {self._name} follower made no turn for {silent_s:.0f} s:"
            f" {reason or 'its turn does not end'}"
        )

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after the present turn."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        follower: Follower | None = None
        while not self._stopping.is_set():
            try:
                if follower is None:
                    follower = self._open_follower()
                pause_s = self._turn(follower)
            except Exception as error:
                pause_s = self._failed(error)
                self._close(follower)
                follower = None
            self._stopping.wait(pause_s)
        self._close(follower)

    def _turn(self, follower: Follower) -> float:
        partitions = self._share()
        n_taken = follower.run_once(partitions) if partitions else 0
        now_s = self._clock_s()
        self._last_good_s, self._backoff_s = now_s, 0.0
        n_records = self._progress.n_records + n_taken
        is_gathering = bool(n_taken) and self._gather_s > 0
        if partitions != self._partitions or now_s >= self._lag_due_s or is_gathering:
            self._lag_due_s = now_s + LAG_EVERY_S
            lag = follower.lag(partitions) if partitions else 0
            self._waiting.note(now_s, n_records, lag, is_same=partitions == self._partitions)
            self._partitions = partitions
        closed = self._of_closed
        self._progress = Progress(
            n_records,
            self._waiting.lag_records,
            self._waiting.oldest_s(now_s, n_records),
            closed.n_bad + follower.n_bad,
            closed.n_missed + follower.n_missed,
            closed.n_repeated + follower.n_repeated,
        )
        if now_s >= self._report_due_s:
            self._report_due_s = now_s + REPORT_EVERY_S
            _log.info("%s: %s", self._name, self._progress)
        if not n_taken:
            return self._poll_interval_s
        # Where more waits than one turn takes, it is behind and goes on at once.
        return self._gather_s if self._waiting.lag_records < n_taken else 0.0

    def _failed(self, error: Exception) -> float:
        if not self._progress.problem:
            _log.error(f"{self._name} stands still, trying again: {error}", exc_info=error)
        sentence = str(error) or type(error).__name__
        self._progress = replace(self._progress, problem=sentence)
        self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), MAX_BACKOFF_S)
        return self._backoff_s

    def _close(self, follower: Follower | None) -> None:
        if follower is None:
            return
        closed = self._of_closed
        self._of_closed = Progress(
            n_bad=closed.n_bad + follower.n_bad,
            n_missed=closed.n_missed + follower.n_missed,
            n_repeated=closed.n_repeated + follower.n_repeated,
        )
        try:
            follower.close()
        except Exception as error:
            _log.warning("%s could not be closed: %s", self._name, error)
