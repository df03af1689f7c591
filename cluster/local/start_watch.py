"""Follows the start of a run until it is past its preflight or answers; says why if it does not."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.local.run_files import (
    RunFiles,
    RunState,
    is_locked,
    last_lines,
    read_document,
    read_state,
)
from recsys.errors import FleetError, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from recsys.settings import Settings

POLL_S = 0.2
PREFLIGHT_STEP = "looking for orphans"
_STEPS = (PREFLIGHT_STEP, "starting ray", "starting ray serve", "deploying applications")


class RunWasKilled(FleetError):
    """The supervisor of another `up` is gone without having stopped or failed."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The supervisor this process started."""

    process: subprocess.Popen[bytes]
    run_id: str


def follow_start(
    settings: Settings,
    files: RunFiles,
    spawned: Spawned | None,
    wait: bool,
    show: Callable[[str, float | None], None],
) -> RunState:
    """Follow the start: past the preflight, or with `wait` until the service answers.

    Raises:
        FleetError: the start failed; with the supervisor's reason.
        RunWasKilled: somebody else's run was followed, and killed.
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
            if state.phase == "serving" and is_ready(settings):
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
    was_killed = spawned is None and state is not None and state.phase in {"starting", "serving"}
    reason = "; ".join(last_lines(files.log, 2)) or "it wrote nothing"
    raise (RunWasKilled if was_killed else FleetError)(
        f"the supervisor ended ({reason}), expected it to stay; see {files.log} "
        "and run 'cluster doctor'"
    )


def _share_done(state: RunState) -> float | None:
    return _STEPS.index(state.step) / len(_STEPS) if state.step in _STEPS else None


def is_ready(settings: Settings) -> bool:
    """Whether /readyz answers 200."""
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
                f"application {name} could not be deployed ({last_line(application['message'])}),"
                f" expected it to run; see {files.log}, then run 'cluster down' and 'cluster up'"
            )


def _why_not_ready(settings: Settings, files: RunFiles) -> str:
    from cluster.endpoint import ask

    status = read_document(files.serve_status) or {}
    for name, application in status.get("applications", {}).items():
        if application["status"] != "RUNNING":
            messages = [application["message"]]
            messages += [d["message"] for d in application["deployments"].values()]
            detail = next((last_line(m) for m in messages if m.strip()), "no message")
            return f"application {name} is {application['status']}: {detail}"
    try:
        answer = ask(settings.serve, "GET", "/readyz", timeout_s=2.0)
    except OSError as error:
        state = read_state(files.state)
        return f"{state.step if state else 'not started'}; {error}"
    return f"/readyz says {answer.status}: {answer.document.get('detail', answer.document)}"


def last_line(message: str) -> str:
    """The last line of a message that says anything; of a traceback, the error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
