"""The lift of a shadow's slates, as a table for a person and as one document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.off_policy.ratio_estimate import Estimate
from train_app.shadows.shadow_value import LIFT_AT_LEAST, LIFT_AT_MOST, ShadowValue
from train_app.shadows.uncopied_answers import Uncopied

_WIDTH = 130


@dataclass(frozen=True)
class LiftReport:
    """Everything that was found of one shadow."""

    shadow_id: str
    bundle_ids: tuple[str, ...]
    reward: str
    """What a slate earns."""
    value: ShadowValue
    left_out: Mapping[str, int]
    """Of the copies."""
    uncopied: Uncopied | None = None
    """Of the answers that were to be copied; None where the share is not known."""

    def as_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "shadow_id": self.shadow_id,
            "bundle_ids": list(self.bundle_ids),
            "reward": self.reward,
            "meaning": self.meaning(),
            **self.value.as_dict(),
            "left_out": dict(self.left_out),
            "uncopied": None if self.uncopied is None else self.uncopied.as_dict(),
        }

    def text(self) -> str:
        """As a table and lines."""
        buffer = StringIO()
        console = Console(file=buffer, width=_WIDTH)
        if self.value.support.is_supported:
            console.print(self._table())
        for line in self._lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())

    def meaning(self) -> str:
        """What the figures come to, as a sentence."""
        if self.value.refusal is not None:
            return "refused: the log holds too little of what the shadow would do"
        lifts = {one.name: one for one in self.value.lifts}
        least, most = lifts[LIFT_AT_LEAST], lifts[LIFT_AT_MOST]
        if not (math.isfinite(least.low) and math.isfinite(most.high)):
            return (
                "no lift can be told: the live slates earn nothing or less in sum; "
                "name one kind with --kind, or ask a canary"
            )
        between = f"between {least.low:+.1%} and {most.high:+.1%}"
        if least.low > 0.0:
            return f"the shadow's slates would have earned more: {between}"
        if most.high < 0.0:
            return f"the shadow's slates would have earned less: {between}"
        return f"more or less cannot be told: {between}; a canary can tell"

    def _table(self) -> Table:
        figures = self.value.support.figures
        table = Table(
            title=f"{self.reward} per slate, {figures.n_rounds:,} requests of "
            f"{figures.n_clusters:,} users; 95 % intervals over users",
            title_justify="left",
        )
        table.add_column("what", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("95 % interval", justify="right", no_wrap=True)
        table.add_column("note")
        for one in self.value.estimates:
            table.add_row(
                one.name, f"{one.value:.4f}", f"[{one.low:.4f}, {one.high:.4f}]", one.note
            )
        for one in self.value.lifts:
            table.add_row(one.name, *_percents(one), one.note)
        return table

    def _lines(self) -> list[str]:
        value, figures = self.value, self.value.support.figures
        lines = [
            self.meaning(),
            f"support: {figures.n_rounds:,} requests are worth {figures.ess:,.0f} drawn from the "
            f"shadow itself; {value.overlap_share:.1%} have an item at the same place, "
            f"{value.moved_share:.1%} of the places hold an item that stood higher up live, "
            f"{value.unsupported_share:.1%} one that the live bundle would never show there",
        ]
        if self.left_out:
            counts = ", ".join(f"{n:,} {name}" for name, n in self.left_out.items())
            lines.append(f"copies left out: {counts}")
        if self.uncopied is not None:
            lines.append(self.uncopied.sentence())
        return lines


def _percents(one: Estimate) -> tuple[str, str]:
    return _percent(one.value), f"[{_percent(one.low)}, {_percent(one.high)}]"


def _percent(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else "-"
