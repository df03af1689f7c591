"""`cluster canary simulate`: what a plan would decide on traffic like this, before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console, as_text
from cluster.rollouts.verbs.metric_text import duration_text
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cluster.rollouts.deciding.rollout_plan import RolloutPlan
    from cluster.rollouts.simulation.simulated_rollout import Looks
    from cluster.rollouts.simulation.simulation_report import RuleReport, Share
    from cluster.rollouts.simulation.traffic_shape import TrafficShape

_COLUMNS = ("aborted", "promoted", "held", "after", "p90", "exposed")
_LEGEND = (
    "95 % intervals in brackets; after, p90: time to the abort, median and 90th percentile; "
    "exposed: users the canary answered, median"
)


@click.command(
    epilog="""\b
    Examples:
      cluster canary simulate
      cluster canary simulate --plan my-plan.toml --effect ctr=-0.05 --rollouts 500
      cluster canary simulate --plan fast --effect error_rate=0.1 --requests-per-minute 60
    """
)
@click.option("--plan", "plan_name", default="standard", show_default=True, metavar="NAME|FILE")
@click.option(
    "--effect", "effect_text", default="ctr=-0.05", show_default=True, metavar="NAME=CHANGE,..."
)
@click.option("--rollouts", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--looks", type=click.IntRange(2, 10_000), default=60, show_default=True)
@click.option("--requests-per-minute", type=float, help="Default: as counted, else 600.")
@click.option("--users", type=int, help="Who come back at all. Default: as counted, else 20000.")
@click.option("--ctr", type=float, help="Chance that a slate is engaged with.")
@click.option("--activity-skew", type=float, help="Sigma of the lognormal of users' rates.")
@click.option("--value-skew", type=float, help="Sigma of the lognormal of values.")
@click.option("--daily-drift", type=float, help="How far the day's best hour is above its mean.")
@click.option(
    "--from-log/--no-log", default=None, help="Traffic as the evidence store has counted it."
)
@click.pass_obj
def simulate(
    console: Console,
    /,
    plan_name: str,
    effect_text: str,
    rollouts: int,
    seed: int,
    looks: int,
    from_log: bool | None,
    **given: Any,
) -> None:
    """Play a plan on simulated users: false aborts without an effect, and what it does with one.

    Beside the plan's own rule stand a fixed-horizon z test, raw thresholds and a z test at every
    look, on the same users.
    """
    from cluster.rollouts.simulation.simulated_rollout import usual_looks
    from cluster.rollouts.simulation.simulation_report import simulate_setting
    from cluster.rollouts.simulation.traffic_shape import Effect, changed, parse_effect

    plan, effect = _plan_with_steps(plan_name), parse_effect(effect_text)
    known, source = _known_traffic(console, from_log)
    shape = changed(known, given)
    chosen = usual_looks(plan, looks)
    reports: list[RuleReport] = []
    with console.progress("simulate") as show:
        for planted in dict.fromkeys((Effect(), effect)):

            def told(done: int, name: str = planted.text) -> None:
                if done % max(rollouts // 10, 1) == 0:
                    show(f"effect {name}", done / rollouts)

            reports += simulate_setting(plan, shape, planted, rollouts, chosen, seed, told)
    document = {
        "plan": plan.name,
        "traffic": asdict(shape),
        "traffic_from": source,
        "looks": asdict(chosen),
        "seed": seed,
        "rollouts": rollouts,
        "reports": [report.to_json() for report in reports],
    }
    head = f"plan {plan.name}, {rollouts} rollouts each, {_traffic_text(shape, source, chosen)}"
    parts = [head, *report_tables(reports), _LEGEND, shortage(plan, shape, chosen)]
    text = "" if console.as_json else as_text(*(part for part in parts if part))
    console.emit(document, text)


def _plan_with_steps(name: str) -> RolloutPlan:
    from cluster.rollouts.deciding.rollout_plan_file import plan_named

    plan = plan_named(name)
    if not plan.steps:
        raise ConfigError(
            f"rollout plan '{plan.name}' has no steps, expected some to simulate; "
            "use '--plan standard'"
        )
    return plan


def _traffic_text(shape: TrafficShape, source: str, looks: Looks) -> str:
    return (
        f"{shape.requests_per_minute:,.1f} requests a minute of {shape.users:,} users, "
        f"ctr {shape.ctr:.3g} ({source}); judged every {duration_text(looks.every_s)} for at most "
        f"{duration_text(looks.until_s)}"
    )


def report_tables(reports: Sequence[RuleReport]) -> list[RenderableType]:
    """The reports as a table per effect."""
    return [
        _table(effect, [report for report in reports if report.effect == effect])
        for effect in dict.fromkeys(report.effect for report in reports)
    ]


def _table(effect: str, reports: Sequence[RuleReport]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"effect: {effect}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("rule", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(
            report.rule,
            _share_text(report.aborted),
            _share_text(report.promoted),
            f"{100 * report.held.value:.3g}%",
            _time_text(report.detect_s_median),
            _time_text(report.detect_s_p90),
            f"{report.exposed_median:,.0f}",
        )
    return table


def shortage(plan: RolloutPlan, shape: TrafficShape, looks: Looks) -> str:
    """Where a step asks for more requests than come while it is judged: how long it would take."""
    for number, step in enumerate(plan.steps, 1):
        per_minute = shape.requests_per_minute * step.share
        needed_s = 60 * step.min_requests / per_minute
        if needed_s > looks.until_s:
            return (
                f"step {number} asks for {step.min_requests:,} requests of the canary, which gets "
                f"{per_minute:,.0f} a minute: {duration_text(needed_s)}, and it is judged for "
                f"{duration_text(looks.until_s)}; lower min_requests, or begin with a larger share"
            )
    return ""


def _known_traffic(console: Console, from_log: bool | None) -> tuple[TrafficShape, str]:
    """The traffic that was counted, or the usual one; and where it is from."""
    from cluster.rollouts.simulation.logged_traffic import MIN_SLATES, logged_traffic
    from cluster.rollouts.simulation.traffic_shape import TrafficShape
    from recsys.stores.evidence.evidence import EvidenceReader

    if from_log is False:
        return TrafficShape(), "from options"
    reader = EvidenceReader(console.settings.evidence_url)
    try:
        found = logged_traffic(reader)
    finally:
        reader.close()
    if found is not None:
        return found.shape, f"from {found.slates:,} slates of {found.hours:.1f} h"
    if from_log:
        raise ConfigError(
            f"the evidence store holds fewer than {MIN_SLATES} slates of the last days, expected "
            "more to take traffic from; leave --from-log out, or serve requests first"
        )
    return TrafficShape(), "from options"


def _share_text(share: Share) -> str:
    low, high = (f"{p:.2g}" if p < 99.5 else "100" for p in (100 * share.low, 100 * share.high))
    return f"{100 * share.value:.3g}% [{low}, {high}]"


def _time_text(seconds: float | None) -> str:
    return "-" if seconds is None else duration_text(seconds)
