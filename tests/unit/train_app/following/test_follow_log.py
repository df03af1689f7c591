"""The follower's loop: it goes on after failures, counts, and says when it is not healthy."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field

from recsys.errors import StoreError
from train_app.following.follow_log import STUCK_AFTER_S, FollowLoop

WAIT_S = 20.0


@dataclass
class Source:
    """What followers take from: counts by partition, and failures to come."""

    waiting: dict[int, int] = field(default_factory=dict)
    n_failures: int = 0
    limit: int = 1_000
    """Records of one partition that one turn takes at most."""
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: list[frozenset[int]] = field(default_factory=list)
    n_opened: int = 0
    n_closed: int = 0


class CountingFollower:
    """Takes what waits in its partitions, up to a limit; one record of each turn is bad."""

    def __init__(self, source: Source) -> None:
        self._source = source
        source.n_opened += 1
        self.n_bad = self.n_missed = self.n_repeated = 0

    def run_once(self, partitions: Collection[int]) -> int:
        """Take of it, or fail as often as the source says."""
        source = self._source
        source.asked.append(frozenset(partitions))
        source.turns.release()
        if source.n_failures:
            source.n_failures -= 1
            raise StoreError("the log is away")
        taken = 0
        for partition in set(partitions) & source.waiting.keys():
            n = min(source.limit, source.waiting[partition])
            taken += n
            source.waiting[partition] -= n
            if not source.waiting[partition]:
                del source.waiting[partition]
        self.n_bad += taken > 0
        return taken

    def lag(self, partitions: Collection[int]) -> int:
        """What waits."""
        return sum(self._source.waiting.get(partition, 0) for partition in partitions)

    def close(self) -> None:
        """Count it."""
        self._source.n_closed += 1


def a_loop(source: Source, share: frozenset[int] = frozenset({0, 1})) -> FollowLoop:
    """A loop over the source with a short poll."""
    return FollowLoop("features", lambda: CountingFollower(source), lambda: share, 0.001)


def wait_for_turns(source: Source, n: int) -> None:
    """Return when the source has been taken from so often."""
    for _ in range(n):
        assert source.turns.acquire(timeout=WAIT_S)


def test_records_are_taken_while_the_loop_runs() -> None:
    """Without anybody asking for a turn, from the partitions of the share alone."""
    source = Source(waiting={0: 3, 1: 4, 2: 5})
    loop = a_loop(source)
    wait_for_turns(source, 4)
    assert loop.problem() is None
    loop.stop()
    progress = loop.progress()
    assert (progress.n_records, progress.n_bad, progress.lag_records) == (7, 1, 0)
    assert source.waiting == {2: 5}
    assert source.n_closed == 1
    assert loop.problem() == "the features follower has ended: it was stopped"


def test_a_failing_follower_is_opened_anew_and_its_counts_are_kept() -> None:
    """The loop outlives failures; counts are since the loop's start."""
    source = Source(waiting={0: 3}, n_failures=0)
    loop = a_loop(source)
    wait_for_turns(source, 3)
    source.n_failures = 2
    while source.n_failures:
        wait_for_turns(source, 1)
    source.waiting[1] = 2
    while source.waiting:
        wait_for_turns(source, 1)
    wait_for_turns(source, 2)
    loop.stop()
    assert source.n_opened == source.n_closed == 3
    progress = loop.progress()
    assert (progress.n_records, progress.n_bad, progress.problem) == (5, 2, "")


def test_the_share_is_asked_for_at_each_turn_and_an_empty_one_idles() -> None:
    """Partitions come and go while the loop runs; without any the store is left alone."""
    source = Source()
    shares = iter([frozenset({0}), frozenset(), frozenset({1})])
    loop = FollowLoop(
        "features",
        lambda: CountingFollower(source),
        lambda: next(shares, frozenset({1, 2})),
        0.001,
    )
    wait_for_turns(source, 4)
    loop.stop()
    assert source.asked[:3] == [frozenset({0}), frozenset({1}), frozenset({1, 2})]


def test_a_loop_without_a_good_turn_is_not_healthy() -> None:
    """The reason is the last failure; Ray Serve restarts the replica on it."""
    clock = [0.0]
    failed = threading.Semaphore(0)

    def open_follower() -> CountingFollower:
        failed.release()
        raise StoreError("the disk is gone")

    loop = FollowLoop("archiver", open_follower, frozenset, 0.001, clock_s=lambda: clock[0])
    assert failed.acquire(timeout=WAIT_S)
    assert failed.acquire(timeout=WAIT_S)
    assert loop.problem() is None
    assert loop.progress().problem == "the disk is gone"
    clock[0] = STUCK_AFTER_S
    assert "archiver follower made no turn for 30 s: the disk is gone" in str(loop.problem())
    loop.stop()


def test_a_turn_that_does_not_end_is_not_healthy() -> None:
    """A store that hangs says nothing; the time does."""
    clock = [0.0]
    entered, leave = threading.Event(), threading.Event()

    def open_follower() -> CountingFollower:
        entered.set()
        leave.wait(WAIT_S)
        return CountingFollower(Source())

    loop = FollowLoop("evidence", open_follower, frozenset, 0.001, clock_s=lambda: clock[0])
    assert entered.wait(WAIT_S)
    clock[0] = STUCK_AFTER_S + 1
    assert "made no turn for 31 s: its turn does not end" in str(loop.problem())
    leave.set()
    loop.stop()


def test_records_gather_between_turns_only_where_few_are_left() -> None:
    """Who is behind goes on at once; who came near the end lets the next turn have more to do."""
    source = Source(waiting={0: 95}, limit=10)
    loop = FollowLoop(
        "evidence", lambda: CountingFollower(source), lambda: frozenset({0}), 0.001, gather_s=WAIT_S
    )
    wait_for_turns(source, 9)
    assert not source.turns.acquire(timeout=0.05)
    loop.stop()
    assert loop.problem() == "the evidence follower has ended: it was stopped"
    assert (loop.progress().n_records, loop.progress().lag_records) == (90, 5)
    assert source.waiting == {0: 5}
