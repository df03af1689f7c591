"""`cluster experiment`: start, read and end experiments. The work is `experiment_runner`'s."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console
from cluster.experiments.experiment_start import runner as open_runner
from cluster.experiments.experiment_start import start
from cluster.rollouts.verbs.canary_reading import outcome_text
from cluster.who_and_when import now_ms, who

if TYPE_CHECKING:
    from cluster.experiments.experiment_record import ExperimentRecord
    from cluster.experiments.experiment_writer import ExperimentWriter, StoredExperiment
    from cluster.rollouts.deciding.rollout_record import Rollout


@click.group(
    epilog="""\b
    Examples:
      cluster experiment start scorer-2 --treatment b20261122-091500-4e1c9a --share 0.2
      cluster experiment status scorer-2
      cluster experiment report scorer-2
      cluster experiment stop scorer-2 --promote
    """
)
def experiment() -> None:
    """Compare bundles or orderings among users, and promote what is better."""


experiment.add_command(start)


@experiment.command(
    "list",
    epilog="""\b
    Examples:
      cluster experiment list
      cluster experiment list --all
    """,
)
@click.option("--all", "with_stopped", is_flag=True, help="Stopped ones too.")
@click.pass_obj
def list_experiments(console: Console, with_stopped: bool) -> None:
    """List open experiments, what of each layer is free, and the holdout."""
    from cluster.experiments.experiment_view import list_text

    writer = _writer(console)
    found = [one.record for one in writer.experiments()]
    shown = found if with_stopped else [one for one in found if not one.is_closed]
    document = {
        "experiments": [one.to_json() for one in shown],
        "holdout": writer.holdout(),
    }
    console.emit(document, list_text(shown, writer.holdout(), now_ms()))


@experiment.command(
    epilog="""\b
    Examples:
      cluster experiment status
      cluster experiment status scorer-2
    """
)
@click.argument("name", metavar="[NAME]", required=False)
@click.pass_obj
def status(console: Console, name: str | None) -> None:
    """Say what an experiment is and how many users its sides have; quick, and no verdict.

    Without NAME: all open ones. Counts come from the evidence, of the bundle layer alone.
    """
    from cluster.experiments.experiment_view import status_text

    writer = _writer(console)
    chosen = writer.open_experiments() if name is None else [writer.named(name)]
    counted = {one.record.experiment_id: _counted(console, one.record) for one in chosen}
    document = {
        "experiments": [
            {**one.record.to_json(), "counted": counted[one.record.experiment_id]} for one in chosen
        ]
    }
    texts = [status_text(one.record, counted[one.record.experiment_id], now_ms()) for one in chosen]
    console.emit(document, "\n\n".join(texts) or "no experiment is open; see --help for examples")


@experiment.command(
    epilog="""\b
    Examples:
      cluster experiment report scorer-2
      cluster --json experiment report scorer-2 | jq .verdict

    Exits 6 if its sides cannot be compared: a sample-ratio mismatch, or a side without users.
    """
)
@click.argument("name", metavar="NAME")
@click.pass_context
def report(ctx: click.Context, name: str) -> None:
    """Print the verdict, metrics, segments and days of an experiment, from the lake."""
    from cluster.learning_commands import run_learning

    stored = _writer(ctx.obj).named(name)
    ctx.exit(run_learning(ctx.obj, _report_arguments(stored.record))[0])


@experiment.command(
    epilog="""\b
    Examples:
      cluster experiment stop scorer-2 --why "the catalogue was wrong"
      cluster experiment stop scorer-2 --promote
      cluster experiment stop scorer-2 --promote --plan fast --full

    With --promote it exits 2, and the experiment goes on, if the report is no pass and --full was
    not given; and as 'cluster canary start' does if the rollout cannot begin.
    """
)
@click.argument("name", metavar="NAME")
@click.option("--promote", is_flag=True, help="Roll the winner out, then stop.")
@click.option("--plan", default="standard", show_default=True, help="Of that rollout.")
@click.option("--arm", metavar="ARM", help="This treatment rather than the report's winner.")
@click.option("--full", is_flag=True, help="Promote without a pass; it is recorded.")
@click.option("--why", default="stopped by the operator", help="For the history.")
@click.pass_obj
def stop(
    console: Console, name: str, promote: bool, plan: str, arm: str | None, full: bool, why: str
) -> None:
    """End an experiment: its users and bundles are free again."""
    stored = _writer(console).named(name)
    if not promote and (full or arm is not None):
        raise click.UsageError("--full and --arm are of --promote, which was not given")
    if stored.record.is_closed:
        console.emit({"experiment": stored.record.to_json()}, f"{name} was stopped before")
        return
    rollout = None
    if promote:
        rollout, why = _promote(console, stored, plan, arm, full)
    with open_runner(console) as runner:
        ended = runner.stop(stored, why)
    document = {
        "experiment": ended.record.to_json(),
        "rollout": None if rollout is None else rollout.to_json(),
    }
    said = f"{ended.record.experiment_id} is stopped: {why}"
    console.emit(document, said if rollout is None else f"{said}\n{outcome_text(rollout)}")


@experiment.command(
    epilog="""\b
    Examples:
      cluster experiment holdout
      cluster experiment holdout --share 0.05
    """
)
@click.option("--share", type=float, help="Of all users; they are in no experiment.")
@click.pass_obj
def holdout(console: Console, share: float | None) -> None:
    """Show or set the share of users that no experiment gets."""
    writer = _writer(console)
    if share is not None:
        writer.set_holdout(share, who(), now_ms())
    found = writer.holdout()
    console.emit({"holdout": found}, f"{found:.1%} of all users are in no experiment")


def _promote(
    console: Console, stored: StoredExperiment, plan: str, arm: str | None, full: bool
) -> tuple[Rollout, str]:
    """Start the rollout of the winner; the experiment is stopped by the caller after that."""
    from cluster.experiments.experiment_promotion import check_promotable, promotion
    from cluster.learning_commands import run_learning
    from cluster.rollouts.driving.rollout_runner import RolloutRunner, raise_for_outcome
    from cluster.rollouts.storing.control_writer import ControlWriter
    from recsys.bundles.registry import open_registry

    check_promotable(stored.record)
    _, document = run_learning(console, _report_arguments(stored.record), reads_result=True)
    chosen = promotion(stored.record, document, full=full, arm=arm)
    settings = console.settings
    writer = ControlWriter(settings.control_url)
    left = writer.open_rollout()
    if left is not None and left.rollout.bundle_id == chosen.bundle_id:
        rollout = left.rollout  # started by this command before it was killed
    else:
        with open_runner(console) as mine:
            registry = open_registry(settings)
            rollouts = RolloutRunner(settings, registry, writer, mine.operator)
            rollout = rollouts.start(chosen.bundle_id, plan)
    if rollout.is_closed:
        raise_for_outcome(rollout)
    return rollout, f"{chosen.arm} goes on as rollout {rollout.rollout_id}: {chosen.why}"


def _report_arguments(record: ExperimentRecord) -> list[str]:
    return ["experiment-report", "--design", json.dumps(record.design().to_json())]


def _counted(console: Console, record: ExperimentRecord) -> dict[str, dict[str, Any]]:
    """Users and slates by side from the evidence; nothing of what it does not count."""
    from recsys.stores.evidence.evidence import EvidenceReader
    from recsys.stores.evidence.evidence_tables import DAY_MS, HOUR_MS

    if record.ran_from_ms is None or not record.bundle_ids:
        return {}
    since_ms, until_ms = record.ran_from_ms, now_ms() + HOUR_MS
    reader = EvidenceReader(console.settings.evidence_url)
    try:
        hour_ms = since_ms - since_ms % HOUR_MS
        arms = reader.by_variant(record.bundle_ids, hour_ms, until_ms)
        users = reader.per_user(record.bundle_ids, since_ms - since_ms % DAY_MS, until_ms)
    finally:
        reader.close()
    return {
        one.variant: {
            "users": int(users.of_arm((one.bundle_id, one.variant, one.experiment)).sum()),
            **{name: one.sums[name] for name in ("slates", "shown", "engaged_items")},
        }
        for one in arms
        if one.experiment == record.experiment_id
    }


def _writer(console: Console) -> ExperimentWriter:
    from cluster.experiments.experiment_writer import ExperimentWriter

    return ExperimentWriter(console.settings.control_url)
