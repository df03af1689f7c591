"""The follower's loop: it goes on after failures and says when it is not healthy."""

from __future__ import annotations

import threading
from pathlib import Path

from recsys.errors import StoreError
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.feature_store import SqliteFeatureStore
from tests.fakes_event_log import MemoryEventLog
from train_app.following.follow_log import STUCK_AFTER_S, FollowLoop
from train_app.following.stream_features import FeatureStream

WAIT_S = 20.0


class WatchedLog(MemoryEventLog):
    """Tells when it has been read from, and fails as often as it is told to."""

    def __init__(self, n_failures: int = 0) -> None:
        super().__init__(1)
        self.n_failures = n_failures
        self.looked_at = threading.Semaphore(0)

    def end_offsets(self) -> dict[int, int]:
        """The next offset of every partition."""
        self.looked_at.release()
        if self.n_failures:
            self.n_failures -= 1
            raise StoreError("the log is away")
        return super().end_offsets()


def an_engagement(event_id: str) -> Engagement:
    """A click."""
    return Engagement(
        event_id=event_id,
        kind="click",
        user_id="u1",
        item_id="i1",
        timestamp_ms=1_790_000_000_000,
        received_at_ms=1_790_000_000_000,
        origin="api",
    )


def wait_for_turns(log: WatchedLog, n: int) -> None:
    """Return when the log has been looked at so often."""
    for _ in range(n):
        assert log.looked_at.acquire(timeout=WAIT_S)


def test_events_reach_the_store_while_the_loop_runs(tmp_path: Path) -> None:
    """Without anybody asking for a turn."""
    log = WatchedLog()
    loop = FollowLoop(lambda: FeatureStream(log, tmp_path / "f", Settings()), 0.001)
    wait_for_turns(log, 3)
    log.append([an_engagement("a")])
    while log.looked_at.acquire(blocking=False):
        pass
    wait_for_turns(log, 6)
    assert len(SqliteFeatureStore(tmp_path / "f").read_users(["u1"])[0].history) == 1
    assert loop.problem() is None
    loop.stop()
    assert loop.n_records == 1
    assert "has ended: it was stopped" in str(loop.problem())


def test_a_failing_store_is_opened_anew(tmp_path: Path) -> None:
    """The loop outlives failures, and each time starts from what is stored."""
    log = WatchedLog(n_failures=2)
    log.append([an_engagement("a")])
    opened: list[FeatureStream] = []

    def open_stream() -> FeatureStream:
        opened.append(FeatureStream(log, tmp_path / "f", Settings()))
        return opened[-1]

    loop = FollowLoop(open_stream, 0.001)
    wait_for_turns(log, 8)
    loop.stop()
    assert len(opened) == 3
    assert loop.n_records == 1


def test_a_loop_without_a_good_turn_is_not_healthy() -> None:
    """The reason is the last failure; Ray Serve restarts the replica on it."""
    clock = [0.0]
    failed = threading.Semaphore(0)

    def open_stream() -> FeatureStream:
        failed.release()
        raise StoreError("the disk is gone")

    loop = FollowLoop(open_stream, 0.001, clock_s=lambda: clock[0])
    assert failed.acquire(timeout=WAIT_S)
    assert failed.acquire(timeout=WAIT_S)
    assert loop.problem() is None
    clock[0] = STUCK_AFTER_S
    assert "made no turn for 30 s: the disk is gone" in str(loop.problem())
    loop.stop()
