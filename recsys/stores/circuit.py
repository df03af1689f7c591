"""A circuit breaker: what keeps failing is left alone for a while, so that it costs nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Circuit:
    """Open after some failures in a row; then one caller per pause may try, the others may not.

    Args:
        opens_after: failures in a row.
        pause_s: how long an open circuit lets nobody through.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        opens_after: int = 3,
        pause_s: float = 0.5,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opens_after = opens_after
        self._pause_s = pause_s
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._n_failures = 0
        self._next_try_s = 0.0

    def lets_through(self) -> bool:
        """Whether this caller may try; it then says how it went."""
        with self._lock:
            if self._n_failures < self._opens_after:
                return True
            now_s = self._clock_s()
            if now_s < self._next_try_s:
                return False
            self._next_try_s = now_s + self._pause_s
            return True

    def succeeded(self) -> None:
        """Close it."""
        if self._n_failures:
            with self._lock:
                self._n_failures = 0

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._n_failures += 1
            self._next_try_s = self._clock_s() + self._pause_s
