"""`cluster up`: spawn the supervisor and follow its start. Starts no Ray in this process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console
from cluster.local.run_files import RunFiles, RunState, is_locked, read_document, read_state
from cluster.local.start_watch import RunWasKilled, Spawned, follow_start, is_ready
from recsys.errors import FleetError

if TYPE_CHECKING:
    from recsys.settings import Settings

POLL_S = 0.2
STOPPING_PATIENCE_S = 60.0
_FOLLOW = "cluster status --watch"


@click.command(
    epilog="""\b
    Examples:
      cluster up --wait
      cluster --config configs/prod.toml up --wait
      FLYWHEEL__SERVE__PORT=9000 cluster up
      cluster up --foreground
    """
)
@click.option("--wait", is_flag=True, help="Return when the service answers, or exit 7.")
@click.option("--foreground", is_flag=True, help="Stay; Ctrl-C stops everything it started.")
@click.option("--serve-config", type=click.Path(path_type=Path, exists=True), hidden=True)
@click.pass_obj
def up(console: Console, wait: bool, foreground: bool, serve_config: Path | None) -> None:
    """Start serving on this machine: Ray, its HTTP ingress and the two applications.

    What an earlier run left behind is found and ended first. Starting what already runs is no
    error.
    """
    from cluster.local.environment import absolute_settings

    settings = absolute_settings(console.settings)
    _check_schedule(settings)
    _check_links(settings)
    files = RunFiles(settings.run_dir)
    _let_it_stop(files)
    if is_locked(files.lock):
        with contextlib.suppress(RunWasKilled):
            _join(console, settings, files, wait)
            return
    if serve_config is None:
        _adopt_bundle(console, settings)
        _tell_of_keys(console, settings)
    spawned = _spawn(settings, files, serve_config)
    if foreground:
        _stay(console, settings, files, spawned, wait)
        return
    with console.progress("up") as show:
        state = follow_start(settings, files, spawned, wait, show)
    _report(console, settings, files, state, wait)


def _check_schedule(settings: Settings) -> None:
    """Refuse a plan of the schedule that no controller could follow.

    Raises:
        ConfigError: `schedule.rollout` names none, or one without steps.
    """
    from cluster.rollouts.driving.scheduled_rollout import scheduled_plan

    scheduled_plan(settings)


def _check_links(settings: Settings) -> None:
    """Refuse certificates that no replica could open its links with.

    Raises:
        ConfigError: a file of `security.link_tls` cannot be used.
    """
    from recsys.link_certificates import open_link_certificates

    open_link_certificates(settings)


def _adopt_bundle(console: Console, settings: Settings) -> None:
    """See that a loadable bundle is `stable` before anything starts; the newest one if none is.

    Raises:
        FleetError: none is published.
        BundleError: the stable one is damaged.
    """
    from cluster.rollouts.driving.first_stable import adopt_first
    from cluster.rollouts.storing.control_writer import ControlWriter
    from recsys.bundles.registry import open_registry

    adopted = adopt_first(
        open_registry(settings),
        ControlWriter(settings.control_url),
        settings,
        time.time_ns() // 1_000_000,
        console.note,
    )
    if adopted is None:
        raise FleetError(
            f"no bundle is published in {settings.registry_location}, expected one to serve; "
            "run 'cluster train --publish' first"
        )


def _tell_of_keys(console: Console, settings: Settings) -> None:
    """Say so where requests need a key and nobody has one."""
    from recsys.security_settings import demands_keys
    from recsys.stores.control.key_tables import KeyReader

    if not demands_keys(settings.security, settings.serve.host):
        return
    with contextlib.closing(KeyReader(settings.control_url)) as reader:
        now_ms = time.time_ns() // 1_000_000
        if not any(key.is_live(now_ms) for key in reader.read()):
            console.note(
                "note: requests need a key and there is none; make one with "
                "'cluster keys create --scope read'"
            )


def _let_it_stop(files: RunFiles) -> None:
    """Wait while an earlier run is on its way out, in order or killed.

    A killed process holds its lock until the kernel has freed its memory.
    """
    from cluster.local.owned_processes import lock_holder

    deadline = time.monotonic() + STOPPING_PATIENCE_S
    while is_locked(files.lock) and time.monotonic() < deadline:
        state = read_state(files.state)
        is_stopping = state is not None and state.phase in {"stopping", "failed"}
        if not is_stopping and lock_holder(files.lock) is not None:
            return
        time.sleep(POLL_S)


def _spawn(settings: Settings, files: RunFiles, serve_config: Path | None) -> Spawned:
    from cluster.local.owned_processes import RUN_ID_VARIABLE

    files.directory.mkdir(parents=True, exist_ok=True)
    if files.log.exists():
        files.log.replace(files.log.with_suffix(".log.1"))
    run_id = f"run-{os.getpid()}-{time.time_ns()}"
    settings_file = files.directory / f"settings-{os.getpid()}.json"
    settings_file.touch(mode=0o600)  # a store's URL may hold a password
    settings_file.write_text(settings.model_dump_json())
    settings_file.replace(files.settings)
    command = [sys.executable, "-m", "cluster.local.supervisor", "--settings", str(files.settings)]
    if serve_config is not None:
        command += ["--serve-config", str(serve_config.resolve())]
    with files.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {RUN_ID_VARIABLE: run_id},
            start_new_session=True,
        )
    return Spawned(process, run_id)


def _join(console: Console, settings: Settings, files: RunFiles, wait: bool) -> None:
    """Another `up` was first: wait for its run, or say that it is there."""
    started_with = read_document(files.settings)
    if started_with != json.loads(settings.model_dump_json()):
        console.note(
            "note: the running cluster was started with other settings; "
            "run 'cluster down' and 'cluster up' to use the present ones"
        )
    with console.progress("up") as show:
        state = follow_start(settings, files, None, wait, show)
    _report(console, settings, files, state, wait)


def _report(
    console: Console, settings: Settings, files: RunFiles, state: RunState, wait: bool
) -> None:
    from cluster.endpoint import base_url

    url = base_url(settings.serve)
    document: dict[str, Any] = {
        "phase": state.phase,
        "ready": wait or (state.phase == "serving" and is_ready(settings)),
        "url": url,
        "run_id": state.run_id,
        "supervisor_pid": state.supervisor_pid,
        "log": str(files.log),
    }
    text = f"serving at {url}" if document["ready"] else f"starting; follow it with '{_FOLLOW}'"
    console.emit(document, text)


def _stay(
    console: Console,
    settings: Settings,
    files: RunFiles,
    spawned: Spawned,
    wait: bool,
) -> None:
    """Follow the run to its end; a signal to this process stops the run."""
    child = spawned.process
    is_asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        is_asked = True
        child.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        with console.progress("up") as show:
            state = follow_start(settings, files, spawned, wait, show)
        _report(console, settings, files, state, wait)
        console.note("Ctrl-C stops it")
        child.wait()
    except FleetError:
        if not is_asked:
            raise
    finally:
        child.terminate()
        child.wait()
    if child.returncode != 0:
        reason = read_state(files.state)
        raise FleetError(reason.error if reason and reason.error else f"see {files.log}")
