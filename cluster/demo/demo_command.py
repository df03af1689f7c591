"""`cluster demo`: the whole loop through the doors a user has, and nothing left behind.

It imports, trains, serves, sends traffic, retrains, swaps under traffic, and offers a bundle that
must be refused. Each step is a verb of this command or a request over HTTP.
"""

from __future__ import annotations

import os
import secrets
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
    from cluster.demo.demo_verbs import Verbs
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
    _refuse_running_service(settings)
    with _ended_by_signals(), _fresh_place(settings.data_dir, lambda: verbs.run("down")):
        _take_a_key(settings, verbs)
        loop = DemoLoop(settings, verbs, console.note)
        findings = loop.run(data, minutes)
        console.emit(document_of(findings), as_text(*tables_of(findings)))
        loop.raise_for_failures()
        if stays:
            _serve_on(console, settings)


def demo_settings(given: Settings) -> Settings:
    """The demo's settings, with what the caller set laid over them, in a place of its own.

    Raises:
        ConfigError: configs/demo.toml is missing or wrong.
    """
    from recsys.settings_files import load_settings, settings_variables

    home = {"FLYWHEEL__DATA_DIR": str((given.data_dir / "demo").resolve())}
    own = {
        "FLYWHEEL__REGISTRY_URL": _own_prefix(given.registry_url),
        "FLYWHEEL__LAKE_URL": _own_prefix(given.lake_url),
    }
    return load_settings([DEMO_SETTINGS], settings_variables(given) | home | own)


def _own_prefix(url: str) -> str:
    """A prefix of a bucket that nobody else writes to; nothing for what lies in the folder."""
    if "://" not in url or url.startswith("file://"):
        return ""
    return f"{url.rstrip('/')}/demo-{secrets.token_hex(6)}"


def _refuse_running_service(settings: Settings) -> None:
    """Raise ConfigError where the control store is a server that already directs traffic."""
    from recsys.errors import ConfigError
    from recsys.stores.control.control import ControlReader

    if not settings.control_store_url:
        return
    plan = ControlReader(settings.control_store_url).view().plan
    if plan is not None:
        raise ConfigError(
            f"the control store has a traffic plan (epoch {plan.epoch}), expected the demo's "
            "stores to be empty; name other databases, topic and Redis in the settings"
        )


def _take_a_key(settings: Settings, verbs: Verbs) -> None:
    """Where requests need a key, make one for the demo's users and show it from now on."""
    from cluster.endpoint import KEY_VARIABLE
    from recsys.keys import SCOPES
    from recsys.security_settings import demands_keys

    if demands_keys(settings.security, settings.serve.host):
        scopes = [word for scope in SCOPES for word in ("--scope", scope)]
        made = verbs.run("keys", "create", *scopes, "--client", "demo", "--expires-days", "1")
        os.environ[KEY_VARIABLE] = str(made.document["key"])


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
