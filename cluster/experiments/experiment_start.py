"""`cluster experiment start`: from what the operator names to a running experiment."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console
from cluster.who_and_when import now_ms, who

if TYPE_CHECKING:
    from cluster.experiments.experiment_planning import PlannedSize
    from cluster.experiments.experiment_record import ExperimentRecord
    from cluster.experiments.experiment_runner import ExperimentRunner
    from cluster.rollouts.driving.rollout_request import RolloutRequest
    from recsys.experiment_plan import ExperimentArm

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@click.command(
    epilog="""\b
    Examples:
      cluster experiment start scorer-2 --treatment b20261122-091500-4e1c9a --share 0.2
      cluster experiment start scorer-2 --treatment B --factorial --metric utility --margin 0.05
      cluster experiment start spread --ordering diversity=0.3 --ordering pool=80
      cluster experiment start spread --settings ordering.toml --margin 0 --lift 0.03

    Started again after its process was killed, it goes on where it was.
    Exits 2 for what cannot be used, 3 if nothing runs, 4 if the name is taken or the layer is
    full, 5 if a replica refuses a bundle, 6 if a 2 x 2 cannot be composed, 7 if replicas are late.
    """
)
@click.argument("name", metavar="NAME")
@click.option("--treatment", metavar="BUNDLE", help="What is compared with the stable bundle.")
@click.option("--factorial", is_flag=True, help="2 x 2: its retriever and scorer apart too.")
@click.option("--ordering", metavar="KEY=VALUE", multiple=True, help="Or: other ordering settings.")
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The same from the table [ordering] of a TOML file.",
)
@click.option("--share", type=float, default=0.1, show_default=True, help="Of all users.")
@click.option("--metric", default="ctr", show_default=True, help="The one that decides.")
@click.option("--margin", type=float, help="Allowed relative loss; 0: it must be better.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Chance to be wrong.")
@click.option("--lift", type=float, default=0.0, help="Gain that the planned n supposes.")
@click.option("--planned-users", type=click.IntRange(1), help="Per arm, instead of that n.")
@click.option("--label-window", "window_s", type=click.IntRange(0), metavar="SECONDS")
@click.option("--hypothesis", default="", help="What is expected, and why.")
@click.pass_obj
def start(console: Console, /, name: str, **options: Any) -> None:
    """Begin an experiment: declared first, resident everywhere, then its users are assigned."""
    from cluster.experiments.experiment_view import shown_text

    asked = _asked(name, options)
    with runner(console) as operate:
        left = operate.left(name, asked)
        if left is not None:
            stored, said = operate.go_on(left), "goes on with what was prepared before"
        else:
            record, size = _new_record(console, operate, name, asked, options)
            stored, said = operate.start(record), size.why
    record = stored.record
    arms = ", ".join(f"{arm.name} {shown_text(arm)}" for arm in record.arms)
    console.emit(
        {"experiment": record.to_json(), "planned": said},
        f"{record.experiment_id} is {record.state}: {record.share:.1%} of layer {record.layer} "
        f"({arms})\n{said}\nfollow it with 'cluster experiment status {name}'",
    )


@contextmanager
def runner(console: Console) -> Generator[ExperimentRunner]:
    """What starts and stops experiments, in the name of this process."""
    from cluster.experiments.experiment_runner import ExperimentRunner
    from cluster.experiments.experiment_writer import ExperimentWriter
    from cluster.rollouts.driving.rollout_actions import Operator
    from recsys.stores.control.control import ControlReader

    url = console.settings.control_url
    with console.progress("experiment") as show:
        operator = Operator(who(), now_ms, time.sleep, lambda line: show(line, None))
        writer = ExperimentWriter(url)
        try:
            yield ExperimentRunner(console.settings, writer, ControlReader(url), operator)
        finally:
            writer.close()


_DECLARED = ("metric", "margin", "alpha", "window_s", "planned_users")
"""What an experiment is judged by: one that goes on goes on with what was declared first."""


def _asked(name: str, options: dict[str, Any]) -> dict[str, object]:
    """What was asked for, checked as far as words tell."""
    from cluster.experiments.experiment_sides import ordering_of
    from recsys.errors import ConfigError

    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"experiment name '{name}' cannot be used, expected up to 64 of a-z, 0-9, '.', '_' "
            "and '-', beginning with a letter or digit"
        )
    changes_ordering = bool(options["ordering"]) or options["settings_file"] is not None
    if changes_ordering == (options["treatment"] is not None):
        raise click.UsageError(
            "expected either --treatment BUNDLE or other ordering settings (--ordering, --settings)"
        )
    if options["factorial"] and changes_ordering:
        raise click.UsageError("--factorial is of --treatment: an ordering has no parts")
    if not 0.0 < options["share"] <= 1.0:
        raise ConfigError(f"--share {options['share']} is none, expected above 0 and up to 1")
    ordering = (
        ordering_of(options["ordering"], options["settings_file"]) if changes_ordering else {}
    )
    return {
        "treatment": options["treatment"] or "",
        "factorial": options["factorial"],
        "ordering": ordering,
        "share": options["share"],
        **{name: options[name] for name in _DECLARED},
    }


def _new_record(
    console: Console,
    operate: ExperimentRunner,
    name: str,
    asked: dict[str, object],
    options: dict[str, Any],
) -> tuple[ExperimentRecord, PlannedSize]:
    """The record of an experiment that begins now; changes nothing but for composed bundles."""
    from cluster.experiments.experiment_record import (
        Declaration,
        ExperimentRecord,
        experiment_id,
    )
    from cluster.experiments.experiment_sides import ordering_sides
    from recsys.evidence.metric_rules import METRICS
    from recsys.experiment_plan import Layer

    settings, began_ms = console.settings, operate.operator.clock()
    window_s, margin = options["window_s"], options["margin"]
    if margin is None:
        margin = METRICS[options["metric"]].margin if options["metric"] in METRICS else 0.0
    declared = Declaration(
        options["metric"],
        margin,
        options["alpha"],
        options["planned_users"],
        settings.attribution.window_s if window_s is None else window_s,
        options["hypothesis"],
    )
    record = ExperimentRecord(
        experiment_id(name, began_ms),
        name,
        Layer.ORDERING,
        ordering_sides({}),
        options["share"],
        operate.operator.who,
        began_ms,
        declared,
        asked=asked,
    )
    record.design()  # what was declared is checked before a bundle is composed
    operate.check_alive()
    record = replace(record, layer=Layer.BUNDLE if asked["treatment"] else Layer.ORDERING)
    operate.writer.check_room(record)
    arms, stable_id = _sides(console, asked)
    record = replace(record, arms=arms)
    size = _planned(console, record, stable_id, options["lift"])
    if declared.planned_n is not None:
        size = replace(size, users_per_arm=declared.planned_n)
    return replace(record, declared=replace(declared, planned_n=size.users_per_arm)), size


def _sides(console: Console, asked: dict[str, object]) -> tuple[tuple[ExperimentArm, ...], str]:
    from cluster.bundles.bundle_parts import compose_parts
    from cluster.experiments.experiment_sides import bundle_sides, factorial_sides, ordering_sides

    request = _request(console)
    stable_id, treatment = request.stable_id(), str(asked["treatment"])
    if not treatment:
        ordering = asked["ordering"]
        return ordering_sides(ordering if isinstance(ordering, dict) else {}), stable_id
    request.check(treatment, is_undo=False)
    if not asked["factorial"]:
        return bundle_sides(stable_id, treatment), stable_id

    def compose(base: str, scorer: str) -> str:
        return str(compose_parts(console, base, scorer, None)["bundle_id"])

    return factorial_sides(stable_id, treatment, compose), stable_id


def _request(console: Console) -> RolloutRequest:
    from cluster.rollouts.driving.rollout_request import RolloutRequest
    from cluster.rollouts.storing.control_writer import ControlWriter
    from recsys.bundles.registry import open_registry
    from recsys.stores.control.control import ControlReader

    settings = console.settings
    url = settings.control_url
    registry = open_registry(settings)
    return RolloutRequest(settings, registry, ControlWriter(url), ControlReader(url))


def _planned(
    console: Console, record: ExperimentRecord, stable_id: str, lift: float
) -> PlannedSize:
    """What the experiment needs; also the check of what was declared."""
    from cluster.experiments.experiment_planning import planned_size
    from cluster.rollouts.driving.controller_loop import kind_meanings
    from recsys.stores.evidence.evidence import EvidenceReader

    design = record.design()
    reader = EvidenceReader(console.settings.evidence_url)
    try:
        return planned_size(
            reader,
            stable_id,
            design.rule,
            alpha=design.alpha,
            n_arms=len(record.arms),
            share=record.share,
            lift=lift,
            now_ms=record.started_ms,
            kinds=kind_meanings(console.settings),
        )
    finally:
        reader.close()
