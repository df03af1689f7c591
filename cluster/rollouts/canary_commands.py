"""`cluster canary`: start, follow, end and undo rollouts. The work is `rollout_runner`'s."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console
from recsys.errors import FleetError, WaitTimeout

if TYPE_CHECKING:
    from cluster.rollouts.control_writer import StoredRollout
    from cluster.rollouts.rollout_record import Rollout
    from cluster.rollouts.rollout_runner import RolloutRunner

WAIT_POLL_S = 0.25


@click.group(
    epilog="""\b
    Examples:
      cluster canary start b20261122-091500-4e1c9a
      cluster canary status --wait --timeout 120
      cluster canary undo
    """
)
def canary() -> None:
    """Start, follow and end rollouts."""


@canary.command(
    epilog="""\b
    Examples:
      cluster canary start b20261122-091500-4e1c9a
      cluster canary start b20261122-091500-4e1c9a --plan instant

    Exits 3 if nothing runs, 4 if another rollout is unfinished, 5 if a replica refuses the bundle.
    """
)
@click.argument("bundle_id", metavar="BUNDLE")
@click.option("--plan", "plan_name", default="instant", help="How it gets its traffic: instant.")
@click.pass_obj
def start(console: Console, bundle_id: str, plan_name: str) -> None:
    """Replace the stable bundle, once every replica has loaded and checked the new one.

    Started again after its process was killed, it goes on where it was.
    """
    _run(console, lambda runner: runner.start(bundle_id, plan_name))


@canary.command(
    epilog="""\b
    Examples:
      cluster canary status
      cluster canary status --wait --timeout 120

    With --wait: 0 promoted, 3 nobody drives it or the fleet did not follow, 4 aborted by an
    operator, 5 aborted because a replica refused the bundle, 7 timed out.
    """
)
@click.option("--wait", is_flag=True, help="Return when the rollout has ended.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0.0), help="Seconds, then exit 7."
)
@click.pass_obj
def status(console: Console, wait: bool, timeout_s: float | None) -> None:
    """Say where the unfinished rollout stands, or how the last one ended."""
    from cluster.rollouts.rollout_runner import raise_for_outcome

    stored = _wait(console, timeout_s) if wait else _latest(console)
    document, text = _status(console, stored)
    console.emit(document, text)
    if wait and stored is not None:
        raise_for_outcome(stored.rollout)


@canary.command(
    epilog="""\b
    Examples:
      cluster canary abort
      cluster canary abort --message "wrong catalogue"
    """
)
@click.option("--message", default="aborted by the operator", help="Why, for the history.")
@click.pass_obj
def abort(console: Console, message: str) -> None:
    """End the unfinished rollout; all traffic goes back to the old bundle first."""
    with _runner(console) as runner:
        rollout = runner.abort(message)
    console.emit({"rollout": rollout.to_json()}, _outcome(rollout))


@canary.command(
    epilog="""\b
    Examples:
      cluster canary retry
    """
)
@click.pass_obj
def retry(console: Console) -> None:
    """Go on with a rollout whose process was killed, or that halted."""
    _run(console, lambda runner: runner.retry())


@canary.command(
    epilog="""\b
    Examples:
      cluster canary undo
      cluster canary undo --to b20261121-170311-0b77d2
    """
)
@click.option("--to", metavar="BUNDLE", help="Default: the bundle that was stable before.")
@click.pass_obj
def undo(console: Console, to: str | None) -> None:
    """Lead back to an earlier stable bundle, by a new rollout.

    If nothing runs because the stable bundle is damaged, the earlier one becomes stable at once.
    """
    _run(console, lambda runner: runner.undo(to))


@canary.command(
    epilog="""\b
    Examples:
      cluster canary history
      cluster canary history -n 50
    """
)
@click.option("-n", "n_lines", type=click.IntRange(min=1), default=20, help="Newest lines shown.")
@click.pass_obj
def history(console: Console, n_lines: int) -> None:
    """List what was changed, when, by whom and why; the newest last."""
    from cluster.rollouts.control_writer import ControlWriter

    entries = ControlWriter(console.settings.control_url).history()[-n_lines:]
    lines = [
        f"{_time_text(entry.at_ms)}  {entry.verb:<10} {entry.what}  {entry.why}  ({entry.who})"
        for entry in entries
    ]
    document = {"history": [asdict(entry) for entry in entries]}
    console.emit(document, "\n".join(lines) or "nothing was changed yet")


def _run(console: Console, act: Callable[[RolloutRunner], Rollout | None]) -> None:
    """Drive a rollout to its end and report it; an abort is an error with its own exit code."""
    from cluster.rollouts.rollout_runner import raise_for_outcome

    with _runner(console) as runner:
        rollout = act(runner)
    if rollout is None:
        document, text = _status(console, _latest(console))
        console.emit(document, f"nothing runs; {text}; start it with 'cluster up --wait'")
        return
    console.emit({"rollout": rollout.to_json()}, _outcome(rollout))
    raise_for_outcome(rollout)


@contextmanager
def _runner(console: Console) -> Generator[RolloutRunner]:
    from cluster.rollouts.control_writer import ControlWriter
    from cluster.rollouts.rollout_actions import Operator
    from cluster.rollouts.rollout_runner import RolloutRunner
    from recsys.bundles.registry import Registry

    settings = console.settings
    with console.progress("canary") as show:
        operator = Operator(_who(), _now_ms, time.sleep, lambda line: show(line, None))
        yield RolloutRunner(
            settings,
            Registry(settings.registry_location),
            ControlWriter(settings.control_url),
            operator,
        )


def _wait(console: Console, timeout_s: float | None) -> StoredRollout | None:
    """Follow the newest rollout until it is closed.

    Raises:
        WaitTimeout: it was not in time.
        FleetError: nobody drives it.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    with console.progress("canary") as show:
        while (stored := _latest(console)) is not None and not stored.rollout.is_closed:
            rollout = stored.rollout
            show(f"{rollout.phase}: {rollout.message}", None)
            if _is_abandoned(stored):
                raise FleetError(f"rollout {rollout.rollout_id} is {rollout.phase}; {_LEFT}")
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise WaitTimeout(
                    f"rollout {rollout.rollout_id} is still {rollout.phase} after {timeout_s} s "
                    f"({rollout.message}), expected it to end; wait longer or abort it with "
                    "'cluster canary abort'"
                )
            time.sleep(WAIT_POLL_S)
    return stored


_LEFT = (
    "its process is gone: go on with 'cluster canary retry' or end it with 'cluster canary abort'"
)


def _latest(console: Console) -> StoredRollout | None:
    from cluster.rollouts.control_writer import ControlWriter

    writer = ControlWriter(console.settings.control_url)
    rollouts = writer.rollouts()
    unfinished = [stored for stored in rollouts if not stored.rollout.is_closed]
    newest_last = unfinished or rollouts
    return newest_last[-1] if newest_last else None


def _status(console: Console, stored: StoredRollout | None) -> tuple[dict[str, Any], str]:
    from cluster.rollouts.observation import living
    from recsys.stores.control import ControlReader

    reader = ControlReader(console.settings.control_url)
    view = reader.view()
    rows = living(reader.readiness(), _now_ms())
    stable = view.aliases.get("stable")
    document = {
        "stable": stable,
        "plan": None if view.plan is None else view.plan.to_json(),
        "required": list(view.required),
        "rollout": None if stored is None else stored.rollout.to_json(),
        "is_abandoned": stored is not None and _is_abandoned(stored),
        "driver": None if stored is None else stored.driver,
        "replicas": [asdict(row) for row in rows],
    }
    lines = [f"stable is {stable or 'not set; run cluster up'}"]
    if stored is not None:
        lines.append(_outcome(stored.rollout))
        if _is_abandoned(stored):
            lines.append(_LEFT)
    return document, "\n".join(lines)


def _is_abandoned(stored: StoredRollout) -> bool:
    from cluster.rollouts.rollout_runner import ABANDONED_MS

    return not stored.rollout.is_closed and _now_ms() - stored.driven_ms > ABANDONED_MS


def _outcome(rollout: Rollout) -> str:
    return (
        f"rollout {rollout.rollout_id} of {rollout.bundle_id} over {rollout.stable_id} is "
        f"{rollout.phase}: {rollout.message}"
    )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _time_text(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
