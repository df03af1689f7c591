"""A thread that says this replica lives, sees who else does, and keeps its share of the partitions.

Knows rows and clocks; the share itself is `partition_share`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from recsys.errors import StoreError
from recsys.stores.control.membership import Member, Membership
from train_app.following.partition_share import Sighting, living, share_of, watch_members

_log = logging.getLogger(__name__)

BEATS_PER_TIMEOUT = 5
"""So many heartbeats may be late or lost before the others take over."""
FIRST_BEAT_S = 2.0


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class ShareWatch:
    """The share of one replica; while the control store is away it stays as it was.

    Args:
        membership: the rows; closed by `stop`.
        me: this replica's row as it begins: worker and replica id.
        partitions: all partitions of the log.
        timeout_s: a replica that was not heard of for so long lives no more.
        now_ms: wall clock; only compared at the first sight of another replica.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        membership: Membership,
        me: Member,
        partitions: Collection[int],
        timeout_s: float,
        now_ms: Callable[[], int] = wall_clock_ms,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._membership = membership
        self._me = me
        self._partitions = frozenset(partitions)
        self._timeout_s = timeout_s
        self._now_ms = now_ms
        self._clock_s = clock_s
        self._sightings: dict[str, Sighting] = {}
        self._share: frozenset[int] | None = None
        self._started_s = clock_s()
        self._is_joined = False
        self._is_away = False
        self._has_looked = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def share(self) -> frozenset[int]:
        """The partitions to follow now; none before the control store was asked for the first time.

        A control store that does not answer at all is not waited for: then this replica follows
        every partition, and the others' offsets keep them apart.
        """
        if self._share is None and self._clock_s() - self._started_s > self._timeout_s:
            return self._partitions
        return self._share if self._share is not None else frozenset()

    def turn(self, report: Member) -> None:
        """Beat once and look around.

        Args:
            report: this replica's row; heartbeat and partitions are filled in here.
        """
        try:
            self._look(report)
        except StoreError as error:
            if not self._is_away:
                _log.warning("%s keeps its partitions: %s", self._me.worker, error)
            self._is_away = True
            self._share = self._partitions if self._share is None else self._share
        else:
            self._is_away = False

    def start(self, report: Callable[[], Member]) -> None:
        """Beat in a thread until stopped; the first beat is waited for a moment."""
        self._thread = threading.Thread(
            target=self._run, args=(report,), name="share-watch", daemon=True
        )
        self._thread.start()
        self._has_looked.wait(FIRST_BEAT_S)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread and leave: the others take the partitions at once."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        try:
            self._membership.leave(self._me)
        except StoreError as error:
            _log.warning("%s left without a word: %s", self._me.worker, error)
        self._membership.close()

    def _look(self, report: Member) -> None:
        now_ms = self._now_ms()
        if not self._is_joined:
            self._membership.join(now_ms)
            self._is_joined = True
        missed_ms = now_ms if report.n_missed > self._me.n_missed else self._me.missed_ms
        self._me = replace(
            report,
            heartbeat_ms=now_ms,
            partitions=tuple(sorted(self._share or ())),
            missed_ms=missed_ms,
        )
        self._membership.beat(self._me)
        rows = self._membership.members(self._me.worker)
        clock_s = self._clock_s()
        self._sightings = watch_members(self._sightings, rows, now_ms, clock_s, self._timeout_s)
        alive = living(self._sightings, rows, clock_s, self._timeout_s)
        share = share_of(self._me.replica_id, alive, self._partitions)
        if share != self._share:
            _log.info("%s follows partitions %s", self._me.worker, sorted(share))
        self._share = share

    def _run(self, report: Callable[[], Member]) -> None:
        while not self._stopping.is_set():
            try:
                self.turn(report())
            except Exception:
                # Whatever a driver raises, the share stays and the next beat tries again.
                _log.exception("%s could not say that it lives", self._me.worker)
            self._has_looked.set()
            self._stopping.wait(self._timeout_s / BEATS_PER_TIMEOUT)
