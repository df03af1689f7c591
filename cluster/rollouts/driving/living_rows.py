"""What replicas last said, with heartbeats as one reader's clock saw them move.

Reads only; which replica lives is decided by `recsys.clock_skew`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cluster.rollouts.deciding.observation import by_our_clock, gateway_epochs
from recsys.clock_skew import FRESH_MS, Beat, Skew, follow_beats, skewed
from recsys.stores.control.control import Readiness

LOOK_S = 0.25
"""Between looks at heartbeats that may still be seen to move."""
STATUS_LOOKS_S = 1.0
"""A status waits so long, at most, for a replica that is late or whose clock is off."""


class LivingRows:
    """Follows heartbeats from look to look.

    Args:
        read: the rows as replicas wrote them.
        clock: Unix time in milliseconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        read: Callable[[], list[Readiness]],
        clock: Callable[[], int],
        sleep: Callable[[float], None],
    ) -> None:
        self._read = read
        self._clock = clock
        self._sleep = sleep
        self._beats: dict[str, Beat] = {}
        self._before: list[Readiness] = []
        self._compared_ms = 0
        self.skews: Sequence[Skew] = ()

    def look(self) -> list[Readiness]:
        """The rows now; who was seen to live has a heartbeat of now, anybody else 0."""
        rows, now_ms = self._read(), self._clock()
        if now_ms - self._compared_ms >= FRESH_MS or now_ms < self._compared_ms:
            self.skews = skewed(self._before, rows, now_ms)
            self._before, self._compared_ms = rows, now_ms
        self._beats = follow_beats(self._beats, rows, now_ms)
        return by_our_clock(rows, self._beats, now_ms)

    def look_until(
        self, is_enough: Callable[[list[Readiness]], bool], at_most_s: float = FRESH_MS / 1000
    ) -> list[Readiness]:
        """The rows once they are enough, or after as long as a heartbeat may stand still."""
        rows = self.look()
        for _ in range(round(at_most_s / LOOK_S)):
            if not rows or is_enough(rows):
                break
            self._sleep(LOOK_S)
            rows = self.look()
        return rows

    def has_gateway(self) -> bool:
        """Whether any gateway lives, whatever its clock says."""
        rows = self.look_until(lambda seen: bool(gateway_epochs(seen, self._clock())))
        return bool(gateway_epochs(rows, self._clock()))


def seen_living(
    read: Callable[[], list[Readiness]],
    clock: Callable[[], int],
    sleep: Callable[[float], None] = time.sleep,
) -> list[Readiness]:
    """The rows, as they were written, of the replicas that live.

    One look is enough where all have reported lately; a replica that has not gets a moment in
    which its heartbeat may be seen to move, whatever its clock says.
    """
    kept: list[Readiness] = []

    def read_and_keep() -> list[Readiness]:
        kept[:] = read()
        return list(kept)

    rows = LivingRows(read_and_keep, clock, sleep).look_until(
        lambda seen: all(row.heartbeat_ms for row in seen), STATUS_LOOKS_S
    )
    alive = {row.replica_id for row in rows if row.heartbeat_ms}
    return [row for row in kept if row.replica_id in alive]
