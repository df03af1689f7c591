"""What a verb is given: settings, and how its result and its progress are written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from recsys.settings import Settings


class Console:
    """The context object of every verb.

    Args:
        settings: the settings, or a function that loads them when they are first asked for, so
            that help works beside a broken settings file.
        as_json: write one JSON document to stdout instead of text.
        debug: the caller wants tracebacks.
        write: where a result goes; stdout.
    """

    def __init__(
        self,
        settings: Settings | Callable[[], object],
        as_json: bool = False,
        debug: bool = False,
        write: Callable[[str], None] = click.echo,
    ) -> None:
        self._settings = settings
        self.as_json = as_json
        self.debug = debug
        self._write = write

    @property
    def settings(self) -> Settings:
        """The resolved settings tree.

        Raises:
            ConfigError: the settings files or the environment cannot be used.
        """
        if callable(self._settings):
            self._settings = cast("Settings", self._settings())
        return self._settings

    def emit(self, document: Mapping[str, Any], text: str) -> None:
        """Write a verb's result to stdout: the document with `--json`, else the text."""
        if self.as_json:
            self._write(json.dumps(document, ensure_ascii=False, default=str))
        elif text:
            self._write(text.rstrip("\n"))

    def note(self, line: str) -> None:
        """Write one line of progress or advice to stderr."""
        click.echo(line, err=True)

    @contextmanager
    def progress(self, title: str) -> Generator[Callable[[str, float | None], None]]:
        """A progress display on stderr: a bar on a terminal, one line per new step elsewhere.

        Yields:
            A function that takes the present step and the share done (None: unknown).
        """
        if not sys.stderr.isatty():
            yield _line_writer(self.note, title)
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}"),
        )
        terminal = RichConsole(stderr=True)
        with Progress(*columns, console=terminal, transient=True) as progress:
            task = progress.add_task(title, total=None, step="")

            def show(step: str, share: float | None = None) -> None:
                progress.update(
                    task, step=step, total=None if share is None else 1.0, completed=share or 0.0
                )

            yield show


def _line_writer(write: Callable[[str], None], title: str) -> Callable[[str, float | None], None]:
    last = ""

    def show(step: str, share: float | None = None) -> None:
        nonlocal last
        if step != last:
            last = step
            percent = "" if share is None else f" ({share:.0%})"
            write(f"{title}: {step}{percent}")

    return show


def as_text(*renderables: RenderableType) -> str:
    """Rich renderables as text, coloured and fitted if stdout is a terminal.

    Elsewhere they are as wide as `COLUMNS` says, or 120.
    """
    import shutil
    from io import StringIO

    from rich.console import Console as RichConsole

    buffer = StringIO()
    terminal = sys.stdout.isatty()
    width = None if terminal else shutil.get_terminal_size((120, 50)).columns
    rich = RichConsole(file=buffer, force_terminal=terminal, width=width, highlight=False)
    for renderable in renderables:
        rich.print(renderable)
    return buffer.getvalue().rstrip("\n")
