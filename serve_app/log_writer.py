"""Writes the event log while serving: one thread that turns many small writes into few commits.

Engagements are awaited until durable; impressions and outcomes are offered and never waited for.
Beside it only `train_app.forgetting` appends, `forgotten` records.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from recsys.errors import Overloaded, StoreError
from recsys.events import Event
from recsys.stores.log.event_log import SqliteEventLog
from recsys.stores.spool.spooling_log import SpoolingLog

_log = logging.getLogger(__name__)

MAX_EVENTS_PER_COMMIT = 512
LINGER_S = 0.02
"""Offered events wait so long for company; awaited ones never do."""
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0


class EventSink(Protocol):
    """Whatever keeps events: the embedded log, or the broker's with its spool."""

    def append(self, events: Sequence[Event]) -> object:
        """Return when all events are durable.

        Raises:
            StoreError: they are not.
        """


@dataclass(frozen=True, slots=True)
class LogHealth:
    """How writing goes: what is waiting, and what went wrong since the start."""

    state: Literal["ok", "spooling", "failing"]
    """`spooling`: the broker is away, events are safe on disk; `failing`: nothing is taken."""
    n_queued: int
    n_dropped: int
    n_failed_batches: int
    n_spooled: int = 0
    """Events that went by way of the spool."""
    n_damaged_files: int = 0
    spooled_events: int = 0
    spooled_bytes: int = 0

    def document(self) -> dict[str, object]:
        """What `/readyz` says of it."""
        return {
            "event_log": self.state,
            "spooled_events": self.spooled_events,
            "degraded": [] if self.state == "ok" else [f"event log: {self.state}"],
        }


@dataclass(frozen=True, eq=False, slots=True)
class _Append:
    """One awaited write, all or nothing."""

    events: Sequence[Event]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class LogWriter:
    """Appends to the log from one thread, so that no event loop waits for a disk.

    When the log fails, awaited writes fail with it at once; offered events are kept and tried
    again until the log takes them. Both wait in bounded queues.

    Args:
        log: the log; it stays open when the writer closes.
        max_queued: events waiting at most, of each sort; past that they are refused.
    """

    def __init__(self, log: EventSink, max_queued: int) -> None:
        self._event_log = log
        self._max_queued = max_queued
        self._changed = threading.Condition()
        self._appends: deque[_Append] = deque()
        self._n_append_events = 0
        self._offers: deque[Event] = deque()
        self._offers_due_s = 0.0
        self._retry_at_s = 0.0
        self._backoff_s = 0.0
        self._give_up_at_s = float("inf")
        self._closing = False
        self._is_failing = False
        self.n_appended = 0
        """Events that the log took."""
        self.n_dropped = 0
        """Offered events that were given up."""
        self.n_failed_batches = 0
        """Commits that the log refused."""
        self._thread = threading.Thread(target=self._run, name="event-log-writer", daemon=True)
        self._thread.start()

    @property
    def queue_depth(self) -> int:
        """Events waiting to be written."""
        return self._n_append_events + len(self._offers)

    @property
    def has_room(self) -> bool:
        """Whether less than half of the queue of offers is taken: past that, spare what can be."""
        return 2 * len(self._offers) < self._max_queued

    def health(self) -> LogHealth:
        """How writing goes now."""
        log = self._event_log
        counts = (self.queue_depth, self.n_dropped, self.n_failed_batches)
        is_failing = self._is_failing
        if isinstance(log, SpoolingLog):
            n_waiting = log.spooled_events
            is_spooling = log.is_broker_away or n_waiting > 0
            return LogHealth(
                "failing" if is_failing else "spooling" if is_spooling else "ok",
                *counts,
                n_spooled=log.n_spooled,
                n_damaged_files=log.n_corrupt,
                spooled_events=n_waiting,
                spooled_bytes=log.spooled_bytes,
            )
        n_damaged = log.n_set_aside if isinstance(log, SqliteEventLog) else 0
        return LogHealth("failing" if is_failing else "ok", *counts, n_damaged_files=n_damaged)

    async def append(self, events: Sequence[Event]) -> None:
        """Return when all events are durable.

        Raises:
            StoreError: perhaps some were stored; send all of them again with the same ids.
            Overloaded: too many writes are waiting; none of them was stored.
        """
        if not events:
            return
        loop = asyncio.get_running_loop()
        entry = _Append(events, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise StoreError("the event log's writer is closed; send the events again")
            if self._appends and self._n_append_events + len(events) > self._max_queued:
                raise Overloaded(f"{self._n_append_events} events wait for the event log already")
            self._appends.append(entry)
            self._n_append_events += len(events)
            self._changed.notify()
        await entry.done

    def offer(self, event: Event) -> bool:
        """Hand over an event without waiting; False where it was dropped, which is counted."""
        with self._changed:
            if self._closing or len(self._offers) >= self._max_queued:
                self.n_dropped += 1
                return False
            self._offers.append(event)
            if len(self._offers) == 1:
                self._offers_due_s = time.monotonic() + LINGER_S
                self._changed.notify()
            elif len(self._offers) == MAX_EVENTS_PER_COMMIT:
                self._offers_due_s = 0.0
                self._changed.notify()
            return True

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is waiting, for at most `timeout_s`, and stop; what is left is dropped."""
        with self._changed:
            self._closing = True
            self._give_up_at_s = time.monotonic() + timeout_s
            self._offers_due_s = 0.0
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            self._abandon()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._wait_for_work():
                    self._abandon()
                    return
                appends, offers = self._take()
            self._write(appends, offers)

    def _abandon(self) -> None:
        """Give up what is still queued, holding the lock."""
        _settle(list(self._appends), "the event log's writer was closed before these were written")
        self._appends.clear()
        self._n_append_events = 0
        self.n_dropped += len(self._offers)
        self._offers.clear()

    def _wait_for_work(self) -> bool:
        """Wait, holding the lock, until something may be written; False when all is done."""
        while not self._appends:
            now_s = time.monotonic()
            if self._closing and (not self._offers or now_s >= self._give_up_at_s):
                return False
            if not self._offers:
                self._changed.wait()
                continue
            due_s = max(self._offers_due_s, self._retry_at_s)
            if now_s >= due_s:
                return True
            self._changed.wait(min(due_s, self._give_up_at_s) - now_s)
        return True

    def _take(self) -> tuple[list[_Append], list[Event]]:
        """The next commit: some awaited writes, and offers unless the log failed just now."""
        appends: list[_Append] = []
        n_events = 0
        while self._appends and n_events < MAX_EVENTS_PER_COMMIT:
            entry = self._appends.popleft()
            appends.append(entry)
            n_events += len(entry.events)
        self._n_append_events -= n_events
        offers: list[Event] = []
        if time.monotonic() >= self._retry_at_s:
            n_offers = min(len(self._offers), MAX_EVENTS_PER_COMMIT)
            offers = [self._offers.popleft() for _ in range(n_offers)]
        return appends, offers

    def _write(self, appends: list[_Append], offers: list[Event]) -> None:
        events = [event for entry in appends for event in entry.events]
        events += offers
        try:
            self._event_log.append(events)
        except StoreError as error:
            self._postpone(offers, error)
            _settle(appends, str(error))
        except Exception as error:
            # Not the log but an event is at fault: find it, so that no other suffers.
            _log.exception("an event cannot be written")
            self._write_apart(appends, offers, error)
        else:
            self.n_appended += len(events)
            self._backoff_s = self._retry_at_s = 0.0
            if self._is_failing:
                self._is_failing = False
                _log.warning("the event log takes events again")
            _settle(appends, None)

    def _write_apart(self, appends: list[_Append], offers: list[Event], error: Exception) -> None:
        if len(appends) + len(offers) == 1:
            self.n_dropped += len(offers)
            _settle(appends, f"the event log cannot take these events: {error}")
        elif appends and offers:
            self._write(appends, [])
            self._write([], offers)
        else:
            half = (len(appends) + len(offers)) // 2
            self._write(appends[:half], offers[:half])
            self._write(appends[half:], offers[half:])

    def _postpone(self, offers: list[Event], error: StoreError) -> None:
        """Put offers back at the head of their queue, to be tried again later."""
        with self._changed:
            if not self._is_failing:
                self._is_failing = True
                _log.error(f"impressions wait in memory: {error}")
            self.n_failed_batches += 1
            self._backoff_s = min(max(2 * self._backoff_s, FIRST_BACKOFF_S), MAX_BACKOFF_S)
            self._retry_at_s = time.monotonic() + self._backoff_s
            self._offers.extendleft(reversed(offers))


def _settle(appends: Sequence[_Append], problem: str | None) -> None:
    """Tell everybody who waits, each on their own event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for entry in appends:
        by_loop[entry.loop].append(entry.done)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, futures, problem)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            continue


def _resolve(futures: Sequence[asyncio.Future[None]], problem: str | None) -> None:
    for future in futures:
        if future.done():
            continue
        if problem is None:
            future.set_result(None)
        else:
            future.set_exception(StoreError(problem))
