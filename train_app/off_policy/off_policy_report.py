"""The result of an off-policy evaluation, as tables for a person and as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.off_policy.lift_calibration import Lift, LiftPair, calibrate_lifts
from recsys.off_policy.ratio_estimate import Estimate
from train_app.off_policy.policy_value import PolicyValue

_WIDTH = 150


@dataclass(frozen=True)
class OffPolicyReport:
    """Everything one evaluation found."""

    reward: str
    """What a slate earns."""
    n_slates: int
    n_users: int
    on_policy: Estimate
    by_bundle: Mapping[str, Estimate]
    values: Sequence[PolicyValue]
    """The target that was asked for first, then others that the log may tell of."""
    rollouts: Sequence[LiftPair]
    left_out: Mapping[str, int]
    notes: Sequence[str] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "reward": self.reward,
            "n_slates": self.n_slates,
            "n_users": self.n_users,
            "on_policy": self.on_policy.as_dict(),
            "by_bundle": {name: one.as_dict() for name, one in self.by_bundle.items()},
            "targets": [value.as_dict() for value in self.values],
            "rollouts": [pair.as_dict() for pair in self.rollouts],
            "calibration": calibrate_lifts(self.rollouts).as_dict(),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """As tables and lines."""
        buffer = StringIO()
        console = Console(file=buffer, width=_WIDTH)
        console.print(self._values())
        for value in self.values:
            if value.refusal is not None:
                console.print(f"{value.name}: refused", markup=False, highlight=False)
                console.print(f"  {value.refusal}", markup=False, highlight=False)
        if self.rollouts:
            console.print(_rollouts(self.rollouts))
        for line in self._lines():
            console.print(line, markup=False, highlight=False)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())

    def _values(self) -> Table:
        table = Table(
            title=f"{self.reward} per slate, {self.n_slates:,} slates of {self.n_users:,} users;"
            " 95 % intervals over users",
            title_justify="left",
        )
        table.add_column("policy", no_wrap=True)
        for name in ("value", "lift", "whole slate", "ESS", "mean weight"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row("as logged", _interval(self.on_policy), "", "", f"{self.n_slates:,}", "1")
        for bundle_id, one in self.by_bundle.items():
            table.add_row(f"  {bundle_id}", _interval(one), "", "", f"{one.n_rounds:,}", "1")
        for value in self.values:
            table.add_row(*_cells(value))
        return table

    def _lines(self) -> list[str]:
        lines = list(self.notes)
        if self.left_out:
            counts = ", ".join(f"{n:,} {name}" for name, n in self.left_out.items())
            lines.append(f"impressions left out: {counts}")
        found = calibrate_lifts(self.rollouts)
        if not found.n_rollouts:
            lines.append("no past rollout has both a predicted lift and evidence yet")
        elif found.mean_gap is not None and found.same_sign is not None:
            line = (
                f"{found.n_rollouts} past rollouts: realised minus predicted lift"
                f" {found.mean_gap:+.1%} on average, same direction in {found.same_sign:.0%}"
            )
            if found.slope is not None:
                line += f", {found.slope:.2f} realised per 1 predicted"
            lines.append(line)
        return lines


def _cells(value: PolicyValue) -> tuple[str, ...]:
    if value.refusal is not None:
        support = value.support
        ess = "" if support is None else f"{support.figures.ess:,.0f}"
        mean = "" if support is None else f"{support.figures.mean_weight:.3f}"
        return value.name, "refused", "", "", ess, mean
    estimates = {one.name: one for one in value.estimates}
    normalised = [one for name, one in estimates.items() if name.endswith("SNIPS")]
    figures = None if value.support is None else value.support.figures
    return (
        value.name,
        _interval(normalised[0]),
        "" if value.lift is None else _percent(value.lift.value, value.lift.low, value.lift.high),
        _interval(normalised[1]),
        "" if figures is None else f"{figures.ess:,.0f}",
        "" if figures is None else f"{figures.mean_weight:.3f} ± {figures.mean_error:.3f}",
    )


def _rollouts(pairs: Sequence[LiftPair]) -> Table:
    table = Table(title="lift of past rollouts", title_justify="left")
    for name in ("bundle", "against", "predicted", "by", "realised", "by"):
        table.add_column(name)
    for pair in pairs:
        table.add_row(
            pair.bundle_id,
            pair.against_id,
            _lift(pair.predicted),
            pair.predicted_by,
            _lift(pair.realised),
            pair.realised_by,
        )
    return table


def _lift(lift: Lift) -> str:
    return _percent(lift.value, lift.low, lift.high)


def _percent(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"{value:+.1%}"
    return f"{value:+.1%} [{low:+.1%}, {high:+.1%}]"


def _interval(one: Estimate) -> str:
    return f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"
