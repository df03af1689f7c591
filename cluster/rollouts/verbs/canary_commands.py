"""`cluster canary`: start, steer, end and undo rollouts. The work is `rollout_runner`'s."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import click

from cluster.console import Console
from cluster.rollouts.verbs.canary_history import history
from cluster.rollouts.verbs.canary_reading import (
    emit_status,
    explain,
    follow,
    is_on_terminal,
    latest,
    outcome_text,
    status,
    watch_live,
)
from cluster.rollouts.verbs.canary_simulate import simulate
from cluster.who_and_when import now_ms, who

if TYPE_CHECKING:
    from cluster.rollouts.deciding.rollout_record import Rollout
    from cluster.rollouts.driving.rollout_runner import RolloutRunner
    from cluster.rollouts.storing.control_writer import StoredRollout

    Waits: TypeAlias = Callable[[Console, float | None, str | None], StoredRollout | None]
    """Returns once the rollout of an id has ended, or raises after so many seconds."""


@click.group(
    epilog="""\b
    Examples:
      cluster canary start b20261122-091500-4e1c9a --plan fast
      cluster canary status --watch
      cluster canary explain
      cluster canary undo
    """
)
def canary() -> None:
    """Start, follow and end rollouts."""


@canary.command(
    epilog="""\b
    Examples:
      cluster canary start b20261122-091500-4e1c9a
      cluster canary start b20261122-091500-4e1c9a --plan fast --wait
      cluster canary start b20261122-091500-4e1c9a --plan my-plan.toml --watch
      cluster canary start b20261122-091500-4e1c9a --plan instant

    A plan with steps is driven by the controller in the cluster, and this returns at once; with
    --wait or --watch it exits as 'cluster canary status --wait' does. 'instant' is driven from
    here, and promotes without evidence. Exits 2 for a plan that cannot be used, 3 if nothing runs
    or no controller lives, 4 if another rollout is unfinished, 5 if a replica refuses the bundle.
    """
)
@click.argument("bundle_id", metavar="BUNDLE")
@click.option(
    "--plan",
    "plan_name",
    default="instant",
    show_default=True,
    metavar="NAME|FILE",
    help="instant, fast, standard, careful, or a TOML file.",
)
@click.option("--wait", is_flag=True, help="Return when the rollout has ended.")
@click.option("--watch", is_flag=True, help="Show it live until it has ended.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0.0), help="Seconds, then exit 7."
)
@click.pass_obj
def start(
    console: Console,
    bundle_id: str,
    plan_name: str,
    wait: bool,
    watch: bool,
    timeout_s: float | None,
) -> None:
    """Replace the stable bundle step by step, as far as the evidence bears it.

    Started again after its process was killed, it goes on where it was.
    """
    look = watch_live if watch and is_on_terminal(console) else follow
    waits = look if wait or watch else None
    _run(console, lambda runner: runner.start(bundle_id, plan_name), waits, timeout_s)


@canary.command(
    epilog="""\b
    Examples:
      cluster canary pause
      cluster canary pause --message "look at the new slates first"
    """
)
@click.option("--message", default="paused by the operator", help="Why, for the history.")
@click.pass_obj
def pause(console: Console, message: str) -> None:
    """Hold the present step with its shares, whatever the evidence says."""
    _steer(console, lambda runner: runner.pause(message))


@canary.command(
    epilog="""\b
    Examples:
      cluster canary resume
    """
)
@click.option("--message", default="resumed by the operator", help="Why, for the history.")
@click.pass_obj
def resume(console: Console, message: str) -> None:
    """Go on with a paused step, which gets its whole time again."""
    _steer(console, lambda runner: runner.resume(message))


@canary.command(
    epilog="""\b
    Examples:
      cluster canary step
      cluster canary step --message "known to be slow at night"

    Exits 4 at the last step: 'cluster canary promote --full' gives it all traffic.
    """
)
@click.option("--message", default="skipped by the operator", help="Why, for the history.")
@click.pass_obj
def step(console: Console, message: str) -> None:
    """Go on to the next share without a verdict, which the history records."""
    _steer(console, lambda runner: runner.step(message))


@canary.command(
    epilog="""\b
    Examples:
      cluster canary promote
      cluster canary promote --full --message "the old index is damaged"

    Exits 2 if the evidence does not pass the last step and --full was not given.
    """
)
@click.option("--full", is_flag=True, help="All traffic now, whatever the evidence says.")
@click.option("--message", default="", help="Why, for the history.")
@click.pass_obj
def promote(console: Console, full: bool, message: str) -> None:
    """Give the canary all traffic, if its last step passes."""
    _steer(console, lambda runner: runner.promote(full=full, message=message))


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
    _steer(console, lambda runner: runner.abort(message))


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
      cluster canary undo --only scorer
    """
)
@click.option("--to", metavar="BUNDLE", help="Default: the bundle that was stable before.")
@click.option("--only", type=click.Choice(["scorer", "ordering"]), help="This part alone.")
@click.pass_obj
def undo(console: Console, to: str | None, only: str | None) -> None:
    """Lead back to an earlier stable bundle, by a new rollout.

    With --only, to a bundle composed of the present one and the earlier one's part, if it fits.
    If nothing runs because the stable bundle is damaged, the earlier one becomes stable at once.
    """
    if only is not None:
        from cluster.bundles.bundle_parts import undo_part

        to = undo_part(console, only, to)
    _run(console, lambda runner: runner.undo(to))


for _verb in (status, explain, history, simulate):
    canary.add_command(_verb)


def _run(
    console: Console,
    act: Callable[[RolloutRunner], Rollout | None],
    waits: Waits | None = None,
    timeout_s: float | None = None,
) -> None:
    """Start or go on with a rollout and report it; an abort is an error with its exit code.

    Args:
        waits: how to wait until the rollout has ended; None does not.
    """
    from cluster.rollouts.driving.rollout_runner import raise_for_outcome

    with _runner(console) as runner:
        rollout = act(runner)
    if rollout is None:
        emit_status(console, latest(console), "nothing runs; start it with 'cluster up --wait'")
        return
    if waits is not None and not rollout.is_closed:
        stored = waits(console, timeout_s, rollout.rollout_id)
        rollout = rollout if stored is None else stored.rollout
    console.emit({"rollout": rollout.to_json()}, outcome_text(rollout))
    if not rollout.is_closed:
        console.note("follow it with 'cluster canary status --watch'")
    raise_for_outcome(rollout)


def _steer(console: Console, act: Callable[[RolloutRunner], Rollout]) -> None:
    with _runner(console) as runner:
        rollout = act(runner)
    console.emit({"rollout": rollout.to_json()}, outcome_text(rollout))


@contextmanager
def _runner(console: Console) -> Generator[RolloutRunner]:
    from cluster.rollouts.driving.rollout_actions import Operator
    from cluster.rollouts.driving.rollout_runner import RolloutRunner
    from cluster.rollouts.storing.control_writer import ControlWriter
    from recsys.bundles.registry import open_registry

    settings = console.settings
    with console.progress("canary") as show:
        operator = Operator(who(), now_ms, time.sleep, lambda line: show(line, None))
        yield RolloutRunner(
            settings,
            open_registry(settings),
            ControlWriter(settings.control_url),
            operator,
        )
