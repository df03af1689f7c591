"""Progress on standard error: a bar on a terminal, plain lines elsewhere, with the time left.

Knows labels and shares of work done; standard output stays free for the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    import rich.progress

LINE_EVERY_S = 10.0
LINE_EVERY_SHARE = 0.25


class PlainProgress:
    """One line when a step begins and ends, and now and then between."""

    def __init__(self, stream: TextIO, now_s: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now_s = now_s
        self._label = ""
        self._began_s = 0.0
        self._line_s = 0.0
        self._line_share = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def __call__(self, label: str, share: float) -> None:
        """Say that `share`, 0-1, of the step `label` is done."""
        now_s = self._now_s()
        is_new = label != self._label
        if is_new:
            self._label, self._began_s = label, now_s
        late = now_s - self._line_s >= LINE_EVERY_S and share > self._line_share
        far = share - self._line_share >= LINE_EVERY_SHARE
        ended = share >= 1.0 > self._line_share
        if is_new or late or far or ended:
            self._line_s, self._line_share = now_s, share
            self._write(label, share, now_s - self._began_s)

    def say(self, text: str) -> None:
        """A line that is no progress."""
        print(text, file=self._stream, flush=True)

    def _write(self, label: str, share: float, elapsed_s: float) -> None:
        if share >= 1.0:
            self.say(f"{label}: done in {duration(elapsed_s)}")
        elif share > 0.0 and elapsed_s > 0:
            left_s = elapsed_s * (1.0 - share) / share
            self.say(f"{label}: {share:.0%}, {duration(left_s)} left")
        else:
            self.say(f"{label} ...")


class BarProgress:
    """One bar per step."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: rich.progress.Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(file=stream),
        )
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, label: str, share: float) -> None:
        """Say that `share`, 0-1, of the step `label` is done."""
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=1.0)
        self._bars.update(self._tasks[label], completed=min(1.0, max(0.0, share)))

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)


Progress = PlainProgress | BarProgress


def open_progress(stream: TextIO) -> Progress:
    """A bar if the stream is a terminal, lines otherwise; use it in a `with` statement."""
    return BarProgress(stream) if stream.isatty() else PlainProgress(stream)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
