"""A loop in a thread that follows the event log and goes on after any failure.

Knows turns, pauses and health; what a turn does is the follower's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from train_app.following.stream_features import FeatureStream

_log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
STUCK_AFTER_S = 30.0
"""A loop without a good turn for so long is not healthy."""
LAG_EVERY_S = 1.0
REPORT_EVERY_S = 60.0


class FollowLoop:
    """Turns a feature stream until stopped; a stream that failed is closed and opened anew.

    Args:
        open_stream: opens the stream, in the loop's own thread.
        poll_interval_s: the pause after a turn that found nothing.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        open_stream: Callable[[], FeatureStream],
        poll_interval_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_stream = open_stream
        self._poll_interval_s = poll_interval_s
        self._clock_s = clock_s
        self._stopping = threading.Event()
        self._last_good_s = clock_s()
        self._failure: Exception | None = None
        self._backoff_s = 0.0
        self._lag_due_s = self._report_due_s = 0.0
        self.n_records = 0
        """Records taken in since the start."""
        self.lag_records = 0
        """Records not yet taken in, as counted about a second ago."""
        self._thread = threading.Thread(target=self._run, name="follow-log", daemon=True)
        self._thread.start()

    def problem(self) -> str | None:
        """Why the loop is not healthy; None where it is."""
        if not self._thread.is_alive():
            return f"the follower of the event log has ended: {self._failure or 'it was stopped'}"
        silent_s = self._clock_s() - self._last_good_s
        if silent_s < STUCK_AFTER_S:
            return None
        return f"the follower of the event log made no turn for {silent_s:.0f} s: {self._failure}"

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after the present turn."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        stream: FeatureStream | None = None
        while not self._stopping.is_set():
            try:
                if stream is None:
                    stream = self._open_stream()
                pause_s = self._turn(stream)
            except Exception as error:
                pause_s = self._failed(error)
                if stream is not None:
                    stream.close()
                stream = None
            self._stopping.wait(pause_s)
        if stream is not None:
            stream.close()

    def _turn(self, stream: FeatureStream) -> float:
        n_taken = stream.run_once()
        now_s = self._clock_s()
        self._last_good_s, self._failure, self._backoff_s = now_s, None, 0.0
        self.n_records += n_taken
        if now_s >= self._lag_due_s:
            self._lag_due_s = now_s + LAG_EVERY_S
            self.lag_records = stream.lag()
        if now_s >= self._report_due_s:
            self._report_due_s = now_s + REPORT_EVERY_S
            _log.info(
                f"features: {self.n_records} records taken in, {self.lag_records} behind,"
                f" {stream.n_bad} bad, {stream.n_missed} missed"
            )
        return 0.0 if n_taken else self._poll_interval_s

    def _failed(self, error: Exception) -> float:
        if self._failure is None:
            _log.error(f"features stand still, trying again: {error}", exc_info=error)
        self._failure = error
        self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), MAX_BACKOFF_S)
        return self._backoff_s
