"""`cluster down`: stop what `up` started, whatever state it is in, and see that nothing is left."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import click

from cluster.console import Console
from cluster.local.run_files import RunFiles, hold_lock, is_locked, read_state
from recsys.errors import FleetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.local.owned_processes import ProcessIdentity
    from recsys.settings import Settings

POLL_S = 0.1
ORDERLY_STOP_S = 60.0
"""Longer than the supervisor's own limits; past it everything of the run is killed."""


@click.command(
    epilog="""\b
    Examples:
      cluster down
      cluster --json down
    """
)
@click.pass_obj
def down(console: Console) -> None:
    """Stop everything `up` started: no process and no bound port is left.

    Also ends what a killed run left behind. Nothing running is no error.
    """
    settings = console.settings
    files = RunFiles(settings.run_dir.resolve())
    with console.progress("down") as show:
        was_running = stop_supervisor(files, show)
        orphans = _end_leftovers(settings, files)
    document = {"was_running": was_running, "orphans": [p.pid for p in orphans]}
    text = "stopped" if was_running else "nothing was running"
    if orphans:
        from cluster.local.owned_processes import describe

        text += f"; ended what was left: {describe(orphans)}"
    console.emit(document, text)


def stop_supervisor(files: RunFiles, show: Callable[[str, float | None], None]) -> bool:
    """Ask a living supervisor to end its run and wait for it.

    Returns:
        Whether one was there.
    """
    if not is_locked(files.lock):
        return False
    from cluster.local.owned_processes import lock_holder, send_signal

    deadline = time.monotonic() + ORDERLY_STOP_S
    asked: ProcessIdentity | None = None
    while is_locked(files.lock):
        holder = lock_holder(files.lock)
        if holder is not None and holder != asked:
            send_signal(holder, signal.SIGTERM)
            asked = holder
        state = read_state(files.state)
        show(state.step if state is not None else "stopping", None)
        if time.monotonic() >= deadline:
            _kill(files, holder)
        time.sleep(POLL_S)
    return True


def _kill(files: RunFiles, supervisor: ProcessIdentity | None) -> None:
    if supervisor is None:
        raise FleetError(
            f"a process holds {files.lock} and has not signed it, expected a supervisor's pid "
            f"there; find it with 'fuser {files.lock}' and end it"
        )
    from cluster.local.owned_processes import send_signal

    send_signal(supervisor, signal.SIGKILL)


def _end_leftovers(settings: Settings, files: RunFiles) -> tuple[ProcessIdentity, ...]:
    """End orphans, under the lock so that no new run begins meanwhile.

    Raises:
        FleetError: another `up` began meanwhile, or something could not be ended.
    """
    if not files.directory.is_dir():
        return ()
    from cluster.local.supervisor import end_orphans

    lock = hold_lock(files.lock)
    if lock is None:
        raise FleetError(
            "another 'cluster up' began while stopping, expected nothing new; run it again"
        )
    try:
        return end_orphans(settings)
    finally:
        os.close(lock)
