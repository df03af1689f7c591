"""`cluster up`: spawn the supervisor and follow its start. Starts no Ray in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console
from cluster.run_files import RunFiles, RunState, is_locked, last_lines, read_document, read_state
from recsys.errors import FleetError, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from recsys.settings import Settings

POLL_S = 0.2
STOPPING_PATIENCE_S = 60.0
PREFLIGHT_STEP = "looking for orphans"
_STEPS = (PREFLIGHT_STEP, "starting ray", "starting ray serve", "deploying applications")


@dataclass(frozen=True, slots=True)
class Spawned:
    """The supervisor this process started."""

    process: subprocess.Popen[bytes]
    run_id: str


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
    from cluster.environment import absolute_settings

    settings = absolute_settings(console.settings)
    files = RunFiles(settings.run_dir)
    _let_it_stop(files)
    if is_locked(files.lock):
        _join(console, settings, files, wait)
        return
    if serve_config is None:
        _adopt_bundle(console, settings)
    spawned = _spawn(settings, files, serve_config)
    if foreground:
        _stay(console, settings, files, spawned, wait)
        return
    with console.progress("up") as show:
        state = _follow(settings, files, spawned, wait, show)
    _report(console, settings, files, state, wait)


def _adopt_bundle(console: Console, settings: Settings) -> None:
    """Make the newest valid bundle `stable` if nothing is, so that there is something to serve."""
    from cluster.control_writer import ControlWriter
    from cluster.rollout_runner import adopt_first
    from recsys.registry import Registry

    registry = Registry(settings.registry_location)
    adopted = adopt_first(
        ControlWriter(settings.control_url), registry, now_ms=time.time_ns() // 1_000_000
    )
    if adopted is None:
        raise FleetError("no bundle is published; run 'cluster train --publish' first")


def _let_it_stop(files: RunFiles) -> None:
    """Wait while an earlier run is on its way out."""
    deadline = time.monotonic() + STOPPING_PATIENCE_S
    while is_locked(files.lock) and time.monotonic() < deadline:
        state = read_state(files.state)
        if state is None or state.phase not in {"stopping", "failed"}:
            return
        time.sleep(POLL_S)


def _spawn(settings: Settings, files: RunFiles, serve_config: Path | None) -> Spawned:
    from cluster.owned_processes import RUN_ID_VARIABLE

    files.directory.mkdir(parents=True, exist_ok=True)
    if files.log.exists():
        files.log.replace(files.log.with_suffix(".log.1"))
    run_id = f"run-{os.getpid()}-{time.time_ns()}"
    settings_file = files.directory / f"settings-{os.getpid()}.json"
    settings_file.write_text(settings.model_dump_json())
    settings_file.replace(files.settings)
    command = [sys.executable, "-m", "cluster.supervisor", "--settings", str(files.settings)]
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
        state = _follow(settings, files, None, wait, show)
    _report(console, settings, files, state, wait)


def _follow(
    settings: Settings,
    files: RunFiles,
    spawned: Spawned | None,
    wait: bool,
    show: Callable[[str, float | None], None],
) -> RunState:
    """Follow the start: past the preflight, or with `wait` until the service answers.

    Raises:
        FleetError: the start failed; with the supervisor's reason.
        WaitTimeout: it did not answer within `cluster.start_timeout_s`.
    """
    deadline = time.monotonic() + settings.cluster.start_timeout_s
    while True:
        state = _present_state(files, spawned)
        if state is not None:
            show(state.step, _share_done(state))
            is_past_preflight = state.step != PREFLIGHT_STEP
            if not wait and is_past_preflight and state.phase in {"starting", "serving"}:
                return state
            if state.phase == "serving" and _is_ready(settings):
                return state
        _raise_for_broken_application(files)
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"the service was not ready after {settings.cluster.start_timeout_s} s "
                f"({_why_not_ready(settings, files)}), expected 200 from /readyz; "
                f"see {files.log} and run 'cluster status'"
            )
        time.sleep(POLL_S)


def _present_state(files: RunFiles, spawned: Spawned | None) -> RunState | None:
    """The state of the run that is followed, once it says anything.

    Raises:
        FleetError: its supervisor ended.
    """
    has_ended = not is_locked(files.lock) if spawned is None else spawned.process.poll() is not None
    state = read_state(files.state)
    is_own = state is not None and (spawned is None or state.run_id == spawned.run_id)
    if not has_ended:
        return state if is_own else None
    if state is not None and is_own and state.phase == "failed":
        error = FleetError(state.error)
        error.exit_code = state.exit_code
        raise error
    if spawned is not None and not is_own and is_locked(files.lock):
        return state  # another `up` won the race; follow its run
    reason = "; ".join(last_lines(files.log, 2)) or "it wrote nothing"
    raise FleetError(
        f"the supervisor ended ({reason}), expected it to stay; see {files.log} "
        "and run 'cluster doctor'"
    )


def _share_done(state: RunState) -> float | None:
    return _STEPS.index(state.step) / len(_STEPS) if state.step in _STEPS else None


def _is_ready(settings: Settings) -> bool:
    from cluster.endpoint import ask

    try:
        return ask(settings.serve, "GET", "/readyz", timeout_s=2.0).status == 200
    except OSError:
        return False


def _raise_for_broken_application(files: RunFiles) -> None:
    status = read_document(files.serve_status) or {}
    for name, application in status.get("applications", {}).items():
        if application["status"] == "DEPLOY_FAILED":
            raise FleetError(
                f"application {name} could not be deployed ({_last_line(application['message'])}),"
                f" expected it to run; see {files.log}, then run 'cluster down' and 'cluster up'"
            )


def _why_not_ready(settings: Settings, files: RunFiles) -> str:
    from cluster.endpoint import ask

    status = read_document(files.serve_status) or {}
    for name, application in status.get("applications", {}).items():
        if application["status"] != "RUNNING":
            messages = [application["message"]]
            messages += [d["message"] for d in application["deployments"].values()]
            detail = next((_last_line(m) for m in messages if m.strip()), "no message")
            return f"application {name} is {application['status']}: {detail}"
    try:
        answer = ask(settings.serve, "GET", "/readyz", timeout_s=2.0)
    except OSError as error:
        state = read_state(files.state)
        return f"{state.step if state else 'not started'}; {error}"
    return f"/readyz says {answer.status}: {answer.document.get('detail', answer.document)}"


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _report(
    console: Console, settings: Settings, files: RunFiles, state: RunState, wait: bool
) -> None:
    from cluster.endpoint import base_url

    url = base_url(settings.serve)
    document: dict[str, Any] = {
        "phase": state.phase,
        "ready": wait or (state.phase == "serving" and _is_ready(settings)),
        "url": url,
        "run_id": state.run_id,
        "supervisor_pid": state.supervisor_pid,
        "log": str(files.log),
    }
    text = f"serving at {url}" if document["ready"] else f"starting; follow it with '{_FOLLOW}'"
    console.emit(document, text)


_FOLLOW = "cluster status --watch"


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
            state = _follow(settings, files, spawned, wait, show)
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
