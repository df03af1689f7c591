"""A replica says that it lives, sees who else does, and keeps its share when it cannot look."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from recsys.stores.control.membership import Member, Membership
from train_app.following.share_watch import ShareWatch

NOW_MS = 1_790_000_000_000
WAIT_S = 20.0


class Clock:
    """Both clocks of a watch, set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        """Wall clock."""
        return NOW_MS + round(self.seconds * 1000)

    def now_s(self) -> float:
        """Monotonic clock."""
        return self.seconds


def url_in(folder: Path) -> str:
    """A control store."""
    return f"sqlite:///{folder / 'control.sqlite'}"


def a_watch(folder: Path, replica_id: str, clock: Clock, n_partitions: int = 4) -> ShareWatch:
    """A watch of a feature stream with a timeout of 5 seconds."""
    me = Member("features", replica_id, 0)
    return ShareWatch(
        Membership(url_in(folder)), me, range(n_partitions), 5.0, clock.now_ms, clock.now_s
    )


def beat(watch: ShareWatch, replica_id: str) -> frozenset[int]:
    """One turn, and the share after it."""
    watch.turn(Member("features", replica_id, 0))
    return watch.share()


def test_two_replicas_share_and_one_takes_over_when_the_other_is_silent(tmp_path: Path) -> None:
    """A killed replica says nothing; its partitions move after the timeout."""
    clock = Clock()
    first, second = a_watch(tmp_path, "a", clock), a_watch(tmp_path, "b", clock)
    assert beat(first, "a") == {0, 1, 2, 3}
    share = beat(second, "b")
    assert len(share) == 2
    assert beat(first, "a") == {0, 1, 2, 3} - share
    clock.seconds = 4.0
    assert beat(first, "a") == {0, 1, 2, 3} - share
    clock.seconds = 10.0
    assert beat(first, "a") == {0, 1, 2, 3}
    first.stop()
    second.stop()


def test_a_replica_that_leaves_hands_over_at_once(tmp_path: Path) -> None:
    """Nobody waits for the timeout of one that stopped in order."""
    clock = Clock()
    first, second = a_watch(tmp_path, "a", clock), a_watch(tmp_path, "b", clock)
    beat(first, "a")
    beat(second, "b")
    second.stop()
    assert beat(first, "a") == {0, 1, 2, 3}
    first.stop()


def test_without_the_control_store_the_last_share_stays(tmp_path: Path) -> None:
    """Following needs no control store."""
    clock = Clock()
    first, second = a_watch(tmp_path, "a", clock), a_watch(tmp_path, "b", clock)
    beat(first, "a")
    beat(second, "b")
    share = beat(first, "a")
    (tmp_path / "control.sqlite").rename(tmp_path / "away")
    (tmp_path / "control.sqlite").mkdir()
    clock.seconds = 60.0
    assert beat(first, "a") == share
    (tmp_path / "control.sqlite").rmdir()
    assert beat(first, "a") == {0, 1, 2, 3}


def test_before_the_first_look_nothing_is_followed_and_without_any_everything(
    tmp_path: Path,
) -> None:
    """A store that never answers is waited for as long as a replica may be silent."""
    clock = Clock()
    watch = a_watch(tmp_path, "a", clock)
    assert watch.share() == frozenset()
    clock.seconds = 5.1
    assert watch.share() == {0, 1, 2, 3}
    (tmp_path / "control.sqlite").mkdir()
    assert beat(a_watch(tmp_path, "b", clock), "b") == {0, 1, 2, 3}


def test_the_row_says_what_is_followed_and_when_records_were_missed(tmp_path: Path) -> None:
    """The time of a gap is the beat that first told of it."""
    clock = Clock()
    watch = a_watch(tmp_path, "a", clock)
    row = Member("features", "a", 0, n_records=5, lag_records=2)
    watch.turn(row)
    clock.seconds = 1.0
    watch.turn(replace(row, n_missed=3))
    clock.seconds = 2.0
    watch.turn(replace(row, n_missed=3))
    (found,) = Membership(url_in(tmp_path)).members()
    assert found == replace(
        row,
        heartbeat_ms=NOW_MS + 2_000,
        partitions=(0, 1, 2, 3),
        n_missed=3,
        missed_ms=NOW_MS + 1_000,
    )
    watch.stop()


def test_the_thread_beats_by_itself_and_leaves_at_the_end(tmp_path: Path) -> None:
    """From `start` to `stop`, whatever a report raises."""
    asked = threading.Semaphore(0)
    fails = iter([True])
    watch = ShareWatch(
        Membership(url_in(tmp_path)), Member("features", "a", 0), range(2), timeout_s=0.01
    )

    def report() -> Member:
        asked.release()
        if next(fails, False):
            raise ValueError("no report yet")
        return Member("features", "a", 0)

    watch.start(report)
    for _ in range(4):
        assert asked.acquire(timeout=WAIT_S)
    assert watch.share() == {0, 1}
    assert [member.replica_id for member in Membership(url_in(tmp_path)).members()] == ["a"]
    watch.stop()
    assert Membership(url_in(tmp_path)).members() == []
