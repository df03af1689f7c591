"""How long the oldest record that a follower has not taken has waited, from counts alone. Pure."""

from __future__ import annotations

from collections import deque

MAX_SAMPLES = 4096


class Waiting:
    """Remembers where the log ended at each look.

    A record waits at least since the earliest look that saw it, so the answer is at most the time
    between two looks too small, and no record is read for it.
    """

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int]] = deque(maxlen=MAX_SAMPLES)
        self.lag_records = 0
        """At the last look."""

    def note(self, now_s: float, n_taken: int, lag_records: int, *, is_same: bool) -> None:
        """A look at the log.

        Args:
            n_taken: records taken since the start.
            lag_records: records behind now.
            is_same: the look is at the same partitions as the one before.
        """
        end = n_taken + lag_records
        # Another follower took records of ours: what waited before cannot be told from counts.
        is_taken_over = bool(self._ends) and end < self._ends[-1][1]
        if not is_same or is_taken_over:
            self._ends.clear()
        self.lag_records = lag_records
        self._ends.append((now_s, end))
        self._drop_taken(n_taken)

    def oldest_s(self, now_s: float, n_taken: int) -> float:
        """Seconds since the earliest look at a record that is not taken yet; 0 if all are."""
        self._drop_taken(n_taken)
        return now_s - self._ends[0][0] if self._ends else 0.0

    def _drop_taken(self, n_taken: int) -> None:
        while self._ends and self._ends[0][1] <= n_taken:
            self._ends.popleft()
