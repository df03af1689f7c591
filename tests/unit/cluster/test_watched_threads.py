"""A probe that dies fails the run, whatever else went well."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bench import slate_probes
from bench.slate_probes import Probes
from bench.watched_threads import WatchedThreads
from recsys.errors import FleetError


def test_threads_that_end_when_they_are_told_to_are_fine() -> None:
    """Leaving waits for them."""
    stopped = threading.Event()
    ended: list[int] = []

    def work() -> None:
        stopped.wait()
        ended.append(1)

    with WatchedThreads([work, work], stopped) as threads:
        threads.check()
    assert ended == [1, 1]


def test_a_death_is_raised_when_they_are_left() -> None:
    """With how many died and of what; an early end is one too."""
    stopped = threading.Event()
    died = threading.Event()

    def dies() -> None:
        try:
            raise KeyError("items")
        finally:
            died.set()

    def lives() -> None:
        stopped.wait()

    with (
        pytest.raises(FleetError, match=r"1 of 2 probes died, the first of KeyError\('items'\)"),
        WatchedThreads([dies, lives], stopped),
    ):
        died.wait()
    with (
        pytest.raises(FleetError, match="ended before its time") as raised,
        WatchedThreads([lambda: None], early := threading.Event()) as threads,
    ):
        for _ in range(1_000):
            threads.check()
            early.wait(0.005)
    assert isinstance(raised.value.__cause__, FleetError)


def test_a_death_explains_what_was_waited_for_in_vain() -> None:
    """It is raised instead; what is no error of ours goes on."""
    stopped = threading.Event()

    def dies() -> None:
        raise ValueError("no number")

    with (
        pytest.raises(FleetError, match="no number"),
        WatchedThreads([dies], stopped),
    ):
        raise FleetError("waited in vain")
    with (
        pytest.raises(KeyboardInterrupt),
        WatchedThreads([dies], stopped),
    ):
        raise KeyboardInterrupt


def test_a_probe_that_cannot_read_an_answer_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no failed request, so no other figure would show it."""
    died = threading.Event()

    def unreadable(*_: object) -> slate_probes.Seen:
        died.set()
        raise KeyError("items")

    monkeypatch.setattr(slate_probes, "_answer", unreadable)
    probes = Probes("http://127.0.0.1:1", f"sqlite:///{tmp_path / 'control.sqlite'}", {}, 1)
    with pytest.raises(FleetError, match=r"1 of 2 probes died, the first of KeyError"), probes:
        died.wait()
    assert probes.seen == [] and probes.n_failed == 0
