"""`cluster demo`: the whole loop through the doors a user has, and nothing left behind.

It imports, trains, serves, sends traffic, retrains, swaps under traffic, and offers a bundle that
must be refused. Each step is a verb of this command or a request over HTTP.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console, as_text

if TYPE_CHECKING:
    from recsys.settings import Settings

DEMO_SETTINGS = Path(__file__).parents[2] / "configs" / "demo.toml"
MARKER = ".flywheel-demo"
"""Only a folder with this file in it is ever emptied."""


@click.command(
    epilog="""\b
    Examples:
      cluster demo
      cluster demo --once
      cluster demo --data data/ml-1m --once
      cluster --json demo --minutes 2
    """
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Import this instead of a simulated history.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1, max=1440),
    metavar="N",
    help="Live traffic before retraining; default two visits of every user.",
)
@click.option("--once", is_flag=True, help="Stop everything after the summary.")
@click.pass_obj
def demo(console: Console, data: Path | None, minutes: float | None, once: bool) -> None:
    """Run the whole loop once: data, training, traffic, retraining, rollout, and a refused bundle.

    It keeps to a folder of its own, data_dir/demo, fresh each time. On a terminal it then goes on
    serving until Ctrl-C; with --once or --json, and elsewhere, it stops everything and exits 0, or
    1 with the reason.
    """
    from cluster.demo.demo_loop import DemoLoop
    from cluster.demo.demo_summary import document_of, tables_of
    from cluster.demo.demo_verbs import Verbs, verb_environment

    settings = demo_settings(console.settings)
    verbs = Verbs(verb_environment(settings, os.environ), console.note)
    stays = not once and not console.as_json and sys.stdout.isatty()
    with _ended_by_signals(), _fresh_place(settings.data_dir, lambda: verbs.run("down")):
        loop = DemoLoop(settings, verbs, console.note)
        findings = loop.run(data, minutes)
        console.emit(document_of(findings), as_text(*tables_of(findings)))
        loop.raise_for_failures()
        if stays:
            _serve_on(console, settings)


def demo_settings(given: Settings) -> Settings:
    """The demo's settings, with what the caller set laid over them, in a folder of its own.

    Raises:
        ConfigError: configs/demo.toml is missing or wrong.
    """
    from recsys.settings_files import load_settings, settings_variables

    home = {"FLYWHEEL__DATA_DIR": str((given.data_dir / "demo").resolve())}
    own = {"FLYWHEEL__REGISTRY_URL": "", "FLYWHEEL__LAKE_URL": ""}
    return load_settings([DEMO_SETTINGS], settings_variables(given) | home | own)


@contextmanager
def _fresh_place(directory: Path, stop: Callable[[], Any]) -> Generator[None]:
    """An empty folder to run in; whatever happens in the block, everything is stopped after it.

    Raises:
        ConfigError: the folder holds something that is no earlier demo's.
    """
    from recsys.errors import ConfigError

    if directory.exists():
        if any(directory.iterdir()) and not (directory / MARKER).exists():
            raise ConfigError(
                f"{directory} holds files that no demo wrote, expected an empty folder or an "
                "earlier demo's; move them away or set another data_dir"
            )
        stop()
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARKER).touch()
    try:
        yield
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave things
        try:
            stop()
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that everything is still stopped."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve_on(console: Console, settings: Settings) -> None:
    """Keep serving until Ctrl-C, which is the wanted end and no error."""
    from cluster.endpoint import base_url

    url = base_url(settings.serve)
    console.note(f"serving at {url} (pages: {url}/docs); Ctrl-C stops everything")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.note("stopping")
