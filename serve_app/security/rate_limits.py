"""A token bucket per caller, in this process alone: the rate of a fleet is this times its replicas.

Not for use from several threads.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_CALLERS = 10_000
"""Callers remembered; past that the one that asked longest ago starts anew with a full bucket."""


class RateLimits:
    """Buckets that fill at a caller's rate and hold `burst` requests.

    Args:
        burst: requests at once after a pause.
    """

    def __init__(self, burst: int) -> None:
        self._burst = float(burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, rate_per_s: float, now_s: float) -> float:
        """Take one request out of the caller's bucket.

        Args:
            rate_per_s: above 0.
            now_s: a clock that never goes back.

        Returns:
            0 if it was there, else how many seconds until it will be; then nothing is taken.
        """
        left, at_s = self._buckets.get(caller, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * rate_per_s)
        is_allowed = left >= 1
        self._buckets[caller] = (left - 1 if is_allowed else left, now_s)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if is_allowed else (1 - left) / rate_per_s
