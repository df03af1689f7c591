"""The writer of the log: group commit, failures, bounds, and an orderly end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from recsys.errors import Overloaded, StoreError
from recsys.events import Engagement, Event
from recsys.stores.log.event_log import LogPosition, SqliteEventLog
from recsys.stores.spool.spool import Spool
from recsys.stores.spool.spooling_log import SpoolingLog
from serve_app.log_writer import MAX_EVENTS_PER_COMMIT, LogHealth, LogWriter
from tests.fakes_event_log import MemoryEventLog

WAIT_S = 20.0


def an_engagement(event_id: str, item_id: str = "i1") -> Engagement:
    """A click."""
    return Engagement(
        event_id=event_id,
        kind="click",
        user_id="u1",
        item_id=item_id,
        timestamp_ms=1_790_000_000_000,
        received_at_ms=1_790_000_000_000,
        origin="api",
    )


class GatedLog(MemoryEventLog):
    """Waits before every append until let through, and fails while it has a failure."""

    def __init__(self) -> None:
        super().__init__(1)
        self.entered = threading.Semaphore(0)
        self.let_through = threading.Semaphore(0)
        self.failure: StoreError | None = None
        self.sizes: list[int] = []

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """Store all events, once let through."""
        self.entered.release()
        assert self.let_through.acquire(timeout=WAIT_S)
        self.sizes.append(len(events))
        if self.failure is not None:
            raise self.failure
        return super().append(events)

    def open_gate(self) -> None:
        """Let every further append through at once."""
        self.let_through.release(1_000_000)


def n_stored(log: MemoryEventLog) -> int:
    """Records in all partitions."""
    return sum(log.end_offsets().values())


def test_append_returns_when_the_events_are_durable(tmp_path: Path) -> None:
    """The embedded log holds them when the await ends."""
    log = SqliteEventLog(tmp_path / "log.sqlite", 2)
    writer = LogWriter(log, max_queued=10)

    async def write() -> int:
        await writer.append([an_engagement("a"), an_engagement("b")])
        return sum(log.end_offsets().values())

    assert asyncio.run(write()) == 2
    writer.close()
    log.close()


def test_what_waits_together_is_committed_together() -> None:
    """While one commit runs, all others gather for the next one."""
    log = GatedLog()
    writer = LogWriter(log, max_queued=1000)

    async def write() -> None:
        first = asyncio.create_task(writer.append([an_engagement("first")]))
        await asyncio.to_thread(log.entered.acquire, timeout=WAIT_S)
        others = [asyncio.create_task(writer.append([an_engagement(f"e{n}")])) for n in range(40)]
        await asyncio.sleep(0)
        for n in range(5):
            assert writer.offer(an_engagement(f"offer{n}"))
        assert writer.queue_depth == 45
        log.open_gate()
        await asyncio.gather(first, *others)

    asyncio.run(write())
    writer.close()
    assert log.sizes == [1, 45]
    assert (writer.n_appended, writer.queue_depth) == (46, 0)


def test_a_failing_log_fails_those_who_wait_and_keeps_what_was_offered() -> None:
    """Engagements are refused at once; impressions are written when the log is back."""
    log = GatedLog()
    log.failure = StoreError("the disk is full")
    log.open_gate()
    writer = LogWriter(log, max_queued=1000)
    writer.offer(an_engagement("kept"))

    async def write(event_id: str) -> None:
        await writer.append([an_engagement(event_id)])

    for n in range(3):
        with pytest.raises(StoreError, match="the disk is full"):
            asyncio.run(write(f"refused{n}"))
    assert n_stored(log) == 0
    assert writer.n_failed_batches >= 3

    log.failure = None
    asyncio.run(write("back"))
    writer.close()
    assert n_stored(log) == 2
    assert (writer.n_dropped, writer.n_appended) == (0, 2)


def test_a_log_that_heals_takes_the_offers_without_being_asked() -> None:
    """No further request is needed to try again."""
    log = GatedLog()
    log.failure = StoreError("the disk is full")
    writer = LogWriter(log, max_queued=1000)
    writer.offer(an_engagement("kept"))
    assert log.entered.acquire(timeout=WAIT_S)
    log.let_through.release()
    assert log.entered.acquire(timeout=WAIT_S), "it was not tried again"
    log.failure = None
    log.open_gate()
    writer.close()
    assert n_stored(log) == 1


def test_past_the_bound_offers_are_dropped_and_counted() -> None:
    """A log that stands still costs bounded memory and never blocks an answer."""
    log = GatedLog()
    writer = LogWriter(log, max_queued=3)
    writer.offer(an_engagement("in flight"))
    assert log.entered.acquire(timeout=WAIT_S)
    taken = [writer.offer(an_engagement(f"e{n}")) for n in range(5)]
    assert taken == [True, True, True, False, False]
    assert writer.n_dropped == 2
    log.open_gate()
    writer.close()
    assert n_stored(log) == 4


def test_past_the_bound_writes_are_shed() -> None:
    """The caller is told to try again, and nothing of that write is stored."""
    log = GatedLog()
    writer = LogWriter(log, max_queued=4)

    async def write() -> None:
        first = asyncio.create_task(writer.append([an_engagement("first")]))
        await asyncio.to_thread(log.entered.acquire, timeout=WAIT_S)
        big = asyncio.create_task(writer.append([an_engagement(f"big{n}") for n in range(9)]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await writer.append([an_engagement("shed")])
        log.open_gate()
        await asyncio.gather(first, big)

    asyncio.run(write())
    writer.close()
    assert n_stored(log) == 10


def test_one_event_that_cannot_be_written_fails_alone() -> None:
    """Its neighbours of the same commit are stored."""
    log = GatedLog()
    writer = LogWriter(log, max_queued=1000)

    async def write() -> list[BaseException | None]:
        first = asyncio.create_task(writer.append([an_engagement("first")]))
        await asyncio.to_thread(log.entered.acquire, timeout=WAIT_S)
        items = ["i1", "half \ud800", "i3", "i4"]
        tasks = [
            asyncio.create_task(writer.append([an_engagement(f"e{n}", item)]))
            for n, item in enumerate(items)
        ]
        await asyncio.sleep(0)
        writer.offer(an_engagement("offered"))
        writer.offer(an_engagement("bad offer", "half \ud800"))
        log.open_gate()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    results = asyncio.run(write())
    writer.close()
    assert [type(result) for result in results] == [type(None)] * 2 + [StoreError] + [
        type(None)
    ] * 2
    assert n_stored(log) == 5
    assert writer.n_dropped == 1


def test_a_caller_who_went_away_harms_nobody() -> None:
    """A cancelled request, and a closed event loop, leave the writer working."""
    log = GatedLog()
    writer = LogWriter(log, max_queued=1000)

    async def cancelled() -> None:
        task = asyncio.create_task(writer.append([an_engagement("a")]))
        await asyncio.to_thread(log.entered.acquire, timeout=WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    log.open_gate()

    async def write() -> None:
        await writer.append([an_engagement("b")])

    asyncio.run(write())
    writer.close()
    assert n_stored(log) == 2


def test_close_writes_what_is_waiting() -> None:
    """More than one commit's worth is flushed; afterwards nothing is taken any more."""
    log = MemoryEventLog(1)
    writer = LogWriter(log, max_queued=10_000)
    n_offers = 3 * MAX_EVENTS_PER_COMMIT
    for n in range(n_offers):
        writer.offer(an_engagement(f"e{n}"))
    writer.close()
    assert n_stored(log) == n_offers
    assert not writer.offer(an_engagement("late"))

    async def late() -> None:
        await writer.append([an_engagement("late")])

    with pytest.raises(StoreError, match="closed"):
        asyncio.run(late())
    writer.close()


def test_close_gives_up_on_a_log_that_stays_broken() -> None:
    """It ends in time, and what was lost is counted."""
    log = GatedLog()
    log.failure = StoreError("the disk is full")
    log.open_gate()
    writer = LogWriter(log, max_queued=1000)
    for n in range(5):
        writer.offer(an_engagement(f"e{n}"))
    writer.close(timeout_s=0.3)
    assert writer.n_dropped == 5
    assert n_stored(log) == 0


def test_close_tells_those_who_wait_behind_a_stuck_log() -> None:
    """A write that never got its turn fails instead of hanging."""
    log = GatedLog()
    writer = LogWriter(log, max_queued=1000)

    async def write() -> None:
        stuck = asyncio.create_task(writer.append([an_engagement("stuck")]))
        await asyncio.to_thread(log.entered.acquire, timeout=WAIT_S)
        behind = asyncio.create_task(writer.append([an_engagement("behind")]))
        await asyncio.sleep(0)
        await asyncio.to_thread(writer.close, 0.05)
        with pytest.raises(StoreError, match="closed before"):
            await behind
        log.open_gate()
        await stuck

    asyncio.run(write())
    assert n_stored(log) == 1


def test_health_says_what_waits_and_what_went_wrong() -> None:
    """A log that refuses makes it `failing`, the next write that succeeds makes it `ok`."""
    log = GatedLog()
    log.open_gate()
    writer = LogWriter(log, max_queued=2)
    assert writer.health() == LogHealth("ok", n_queued=0, n_dropped=0, n_failed_batches=0)
    log.failure = StoreError("the disk is full")

    async def write() -> None:
        await writer.append([an_engagement("a")])

    with pytest.raises(StoreError):
        asyncio.run(write())
    for n in range(4):
        writer.offer(an_engagement(f"e{n}"))
    failing = writer.health()
    assert failing.state == "failing"
    assert (failing.n_queued, failing.n_dropped, failing.n_failed_batches >= 1) == (2, 2, True)
    log.failure = None
    asyncio.run(write())
    assert writer.health().state == "ok"
    writer.close()


def test_while_the_broker_is_away_events_are_acknowledged_from_the_disk(tmp_path: Path) -> None:
    """Nobody waits in memory; health says that the log spools and how much."""
    broker = GatedLog()
    broker.open_gate()
    broker.failure = StoreError("the broker is away")
    log = SpoolingLog(broker, Spool(tmp_path, 1_000_000))
    writer = LogWriter(log, max_queued=100)

    async def write() -> None:
        for n in range(20):
            await writer.append([an_engagement(f"{n}-{k}") for k in range(10)])

    asyncio.run(write())
    health = writer.health()
    assert (health.state, health.spooled_events, health.n_spooled) == ("spooling", 200, 200)
    assert (health.n_queued, health.n_dropped, health.n_failed_batches) == (0, 0, 0)
    assert health.spooled_bytes > 200 * 100
    writer.close()
    log.close()


def test_set_aside_files_are_counted(tmp_path: Path) -> None:
    """The gateway's metrics learn of a damaged file from here."""
    (tmp_path / "log.sqlite").write_bytes(b"no database at all " * 100)
    log = SqliteEventLog(tmp_path / "log.sqlite", 1, sets_aside=True)
    writer = LogWriter(log, max_queued=10)
    assert writer.health().n_damaged_files == 1
    writer.close()
    log.close()
