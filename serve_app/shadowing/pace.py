"""How often copies may begin beside users' requests. Pure.

Whatever a stage or this process works on, it finishes: a request that arrives while copies are
under way can be held up by them. So the time that copies are under way is bounded, and with it the
share of requests that can meet one.
"""

from __future__ import annotations


class Pace:
    """Bounds the time for which copies are under way while users' requests are.

    Args:
        share: of that time, in (0, 1].
    """

    def __init__(self, share: float) -> None:
        self._rest_per_s = 1.0 / share - 1.0
        self._rested_s = 0.0

    def rest_s(self, now_s: float, *, is_answering: bool) -> float:
        """Seconds until copies may begin; with no user's request under way they need not wait."""
        return max(0.0, self._rested_s - now_s) if is_answering else 0.0

    def ended(self, begun_s: float, now_s: float) -> None:
        """Copies were under way from `begun_s` until now; every batch adds a rest of its own."""
        rested_s = max(self._rested_s, now_s)
        self._rested_s = rested_s + (now_s - begun_s) * self._rest_per_s
