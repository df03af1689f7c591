"""Progress as lines: enough to follow, never a flood."""

from __future__ import annotations

import io

import pytest

from train_app.progress import PlainProgress, duration, open_progress


def lines_of(steps: list[tuple[str, float, float]]) -> list[str]:
    """What is written for (label, share, seconds on the clock)."""
    stream = io.StringIO()
    clock = iter([seconds for _, _, seconds in steps])
    with PlainProgress(stream, lambda: next(clock)) as progress:
        for label, share, _ in steps:
            progress(label, share)
    return stream.getvalue().splitlines()


def test_a_step_begins_and_ends_with_a_line_and_tells_the_time_left() -> None:
    """A quarter done after 60 s leaves 3 minutes."""
    assert lines_of([("train", 0.0, 0), ("train", 0.25, 60), ("train", 1.0, 240)]) == [
        "train ...",
        "train: 25%, 3 min 00 s left",
        "train: done in 4 min 00 s",
    ]


def test_a_thousand_small_reports_are_few_lines() -> None:
    """Lines come by share or by time, not by report."""
    assert len(lines_of([("train", n / 1000, n / 1000) for n in range(1001)])) == 5
    assert len(lines_of([("train", n / 10_000, n) for n in range(100)])) == 10


def test_a_step_that_ended_is_not_ended_twice() -> None:
    """The second report of the end says nothing new."""
    assert len(lines_of([("train", 1.0, 1), ("train", 1.0, 2)])) == 1


def test_a_stream_that_is_no_terminal_gets_lines() -> None:
    """Bars are for people."""
    assert isinstance(open_progress(io.StringIO()), PlainProgress)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3_725, "1 h 02 min")]
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    """Seconds, minutes, hours."""
    assert duration(seconds) == text
