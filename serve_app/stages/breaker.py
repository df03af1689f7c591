"""A breaker: after several failures in a row a stage is not asked for a while, then tried once.

So a dead shard costs the first few batches their wait, not every batch until it is back.
"""

from __future__ import annotations

from collections.abc import Callable

FAILURES_TO_OPEN = 3
OPEN_S = 1.0
MAX_BUNDLES = 16
"""More than a stage ever holds at once."""


class Breaker:
    """Decides whether to ask; the caller says how it went.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._n_failures = 0
        self._open_until_s = 0.0

    def allows(self) -> bool:
        """Whether to ask now; while open, one caller per `OPEN_S` is let through as a trial."""
        if self._n_failures < FAILURES_TO_OPEN:
            return True
        now_s = self._clock()
        if now_s < self._open_until_s:
            return False
        self._open_until_s = now_s + OPEN_S
        return True

    def succeeded(self) -> None:
        """It answered."""
        self._n_failures = 0

    def failed(self) -> None:
        """It did not."""
        self._n_failures += 1
        if self._n_failures == FAILURES_TO_OPEN:
            self._open_until_s = self._clock() + OPEN_S


class BundleBreakers:
    """A breaker per bundle of a stage, so that a bad bundle costs the users of no other.

    A dead stage therefore costs each bundle its own first failures.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_bundle: dict[str, Breaker] = {}

    def of(self, bundle_id: str) -> Breaker:
        """The bundle's breaker; that of the bundle asked for longest ago makes room."""
        breaker = self._by_bundle.pop(bundle_id, None)
        if breaker is None:
            breaker = Breaker(self._clock)
            while len(self._by_bundle) >= MAX_BUNDLES:
                del self._by_bundle[next(iter(self._by_bundle))]
        self._by_bundle[bundle_id] = breaker
        return breaker
