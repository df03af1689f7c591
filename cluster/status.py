"""`cluster status`: shows what `status_facts` found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console, as_text
from cluster.schedule_facts import schedule_line
from cluster.status_facts import StatusFacts, gather, problems_of, wall_clock_ms

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

REFRESH_S = 1.0
UNHEALTHY = 1
UNREACHABLE = 3


@click.command(
    epilog="""\b
    Examples:
      cluster status
      cluster status --watch
      cluster --json status | jq .problems
    """
)
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, watch: bool) -> None:
    """Say what runs: applications, replicas, plan, rollout, log lag and freshness.

    Exit code 0 only if all of it is healthy, 1 if something is not, 3 if nothing is running.
    """
    console: Console = ctx.obj
    settings = console.settings
    if watch and not console.as_json:
        _watch(console)
        return
    facts = gather(settings, wall_clock_ms)
    problems = problems_of(facts)
    document = asdict(facts) | {"healthy": not problems, "problems": problems}
    console.emit(document, "" if console.as_json else as_text(page(facts, problems)))
    if problems:
        ctx.exit(UNHEALTHY if facts.is_running else UNREACHABLE)


def _watch(console: Console) -> None:
    from rich.live import Live

    def draw() -> Group:
        facts = gather(console.settings, wall_clock_ms)
        return page(facts, problems_of(facts), is_live=True)

    with Live(draw(), auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(draw(), refresh=True)


def page(facts: StatusFacts, problems: list[str], *, is_live: bool = False) -> Group:
    """The whole status for a terminal.

    Args:
        is_live: it is redrawn in place, where what does not fit at the end is cut off; so what
            says most comes first.
    """
    from rich.console import Group
    from rich.text import Text

    tables: list[RenderableType] = []
    lines: list[RenderableType] = []
    if facts.is_running:
        tables = [_deployments(facts.serve), _replicas(facts.control), _workers(facts.workers)]
        lines += _lines(facts)
    verdict = [Text(f"problem: {sentence}", style="red") for sentence in problems]
    verdict = verdict or [Text("healthy", style="green")]
    return Group(*verdict, *lines, *tables) if is_live else Group(*tables, *lines, *verdict)


def _deployments(serve: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table(title="applications", title_justify="left")
    for column in ("application", "deployment", "status", "replicas"):
        table.add_column(column)
    for name, application in serve.get("applications", {}).items():
        table.add_row(name, "", application["status"], "")
        for deployment, found in application["deployments"].items():
            counts = ", ".join(f"{n} {state.lower()}" for state, n in found["replicas"].items())
            table.add_row("", deployment, found["status"], counts)
    return table


def _replicas(control: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table(title="bundles in replicas", title_justify="left")
    for column in ("stage", "replica", "bundle", "state", "epoch", "reason"):
        table.add_column(column)
    for row in control.get("replicas", ()):
        table.add_row(
            row["stage"],
            row["replica_id"],
            row["bundle_id"] or "none",
            row["state"],
            str(row["plan_epoch"]),
            row["reason"],
        )
    return table


def _workers(workers: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    from rich.table import Table

    table = Table(title="workers", title_justify="left")
    for column in (
        "worker",
        "replicas",
        "behind",
        "freshness",
        "taken",
        "bad",
        "repeated",
        "missed",
    ):
        table.add_column(column, justify="left" if column == "worker" else "right")
    for name, found in workers.items():
        table.add_row(
            name,
            f"{found['n_replicas']} of {found['n_expected']}",
            str(found["lag_records"]),
            f"{found['freshness_s']:.1f} s",
            *(str(found[count]) for count in ("n_records", "n_bad", "n_repeated", "n_missed")),
        )
    return table


def _lines(facts: StatusFacts) -> list[RenderableType]:
    from rich.text import Text

    control, log = facts.control, facts.log
    lines = []
    plan = control.get("plan")
    if plan:
        arms = ", ".join(
            f"{arm['variant']} {arm['bundle_id']} {arm['share']:.0%}" for arm in plan["arms"]
        )
        lines.append(f"plan: epoch {plan['epoch']}: {arms}")
    else:
        lines.append("plan: none")
    aliases = control.get("aliases") or {}
    lines.append("aliases: " + (", ".join(f"{k} = {v}" for k, v in aliases.items()) or "none"))
    rollout = control.get("rollout")
    lines.append(f"rollout: {_rollout_line(rollout) if rollout else 'none under way'}")
    lines += [
        f"experiment: {one['experiment_id']}, {one['share']:.0%} of the {one['layer']} layer"
        for one in control.get("experiments", ())
    ]
    lines.append(f"controller: {_controller_line(control.get('controller'))}")
    if log:
        ends = ", ".join(str(end) for end in log["end_offsets"].values())
        lines.append(
            f"log: {log['backend']}, {log['n_events']} events (partitions end at {ends or 'none'})"
            f", the feature store is {log['lag_events']} events and {log['lag_s']:.1f} s behind"
        )
    if facts.disk.get("spool_bytes"):
        lines.append(
            f"spool: {facts.disk['spool_bytes'] / 1024**2:.1f} MiB in "
            f"{facts.disk['spool_files']} files wait for the log"
        )
    if facts.schedule:
        lines.append(schedule_line(facts.schedule, wall_clock_ms()))
    lines.append(f"ready: /readyz answers {facts.ready.get('status')}")
    return [Text(line) for line in lines]


def _rollout_line(rollout: Mapping[str, Any]) -> str:
    return (
        f"{rollout['rollout_id']} of {rollout['bundle_id']} is {rollout['phase']}: "
        f"{rollout['message']}"
    )


def _controller_line(lease: Mapping[str, Any] | None) -> str:
    if lease is None:
        return "none drives rollouts"
    said = f"last heard {lease['age_ms'] / 1000:.0f} s ago"
    return f"{lease['owner']} drives rollouts, {said}" if lease["is_held"] else f"none, {said}"
