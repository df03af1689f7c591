"""The event path: every measurement of it in a process of its own, and one table of the
figures, beside their targets. `python -m bench.event_path` runs this part alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.errors import FleetError, RecsysError

TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value beside what it should be."""

    what: str
    value: float
    unit: str
    target: float | None = None
    is_least: bool = True
    """The target is the least value; otherwise the largest."""

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        if self.target is None:
            return True
        return self.value >= self.target if self.is_least else self.value <= self.target


def measure(console: Console) -> dict[str, Any]:
    """Run all parts one after the other; what each measured, by name, with the table printed."""
    found: dict[str, Any] = {}
    figures: list[Figure] = []
    for name, read in PARTS.items():
        console.print(f"[dim]measuring {name.replace('_', ' ')}[/dim]")
        found[name] = _run(name)
        figures += read(found[name])
    show(Console(), figures)
    return found


def show(console: Console, figures: list[Figure]) -> None:
    """Print the table, whole sentences even where no terminal is wide."""
    table = Table(title="event path", min_width=100)
    for column in ("what", "measured", "target", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for figure in figures:
        sign = ">=" if figure.is_least else "<="
        has_target = figure.target is not None
        table.add_row(
            figure.what,
            f"{figure.value:,.{0 if figure.value >= 100 else 2}f} {figure.unit}",
            f"{sign} {figure.target:,.0f}" if has_target else "",
            ("reached" if figure.holds else "MISSED") if has_target else "",
        )
    console.print(table)


def _run(name: str) -> Any:
    command = [sys.executable, "-m", f"bench.{name}", "--json"]
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise FleetError(f"bench.{name} did not end well: {error}; run it alone to see") from error
    return json.loads(ended.stdout)


def _event_rates(runs: Any) -> Iterator[Figure]:
    for log in dict.fromkeys(run["log"] for run in runs):
        best = max(run["events_per_s"] for run in runs if run["log"] == log)
        yield Figure(f"POST /v1/events, batches of 100, {log} log", best, "events/s", 3_000)


def _freshness(runs: Any) -> Iterator[Figure]:
    for run in runs:
        beside = f"{run['background_events_per_s']:,.0f} other events/s"
        what = f"event to changed feature, p99, {run['log']} log, {beside}"
        yield Figure(what, run["p99_s"], "s", 2, is_least=False)


def _archiver_rate(runs: Any) -> Iterator[Figure]:
    for run in runs:
        rate = run["n_events"] / run["seconds"]
        target = 20_000 if run["events"] == "engagements" else None
        yield Figure(f"archiver, {run['events']}", rate, "events/s", target)


def _feature_rate(found: Any) -> Iterator[Figure]:
    rates = found["catch_up"]
    yield Figure("feature stream, histories of 200", rates["events_per_s"], "events/s", 5_000)
    per_cpu = rates["events_per_cpu_s"]
    yield Figure("feature stream, per second of processor", per_cpu, "events/s", 5_000)


def _feature_reads(runs: Any) -> Iterator[Figure]:
    for run in runs:
        target = {"sqlite": 2, "redis": 4}[run["store"]]
        what = f"50 users in one read, p99, {run['store']}"
        yield Figure(what, run["p99_ms"], "ms", target, is_least=False)
        users = f"{run['n_users']:,} users with {run['history']} events, {run['store']}"
        yield Figure(f"{users}: disk", run["disk_mb"], "MB")
        if run["memory_mb"] is not None:
            yield Figure(f"{users}: memory", run["memory_mb"], "MB")


def _as_of_rate(run: Any) -> Iterator[Figure]:
    what = f"as-of join, {run['n_left']:,} x {run['n_right']:,} rows"
    yield Figure(what, run["seconds"], "s", 5, is_least=False)
    yield Figure(f"{what}, memory", run["peak_rss_mb"], "MB", 2_000, is_least=False)


PARTS: dict[str, Callable[[Any], Iterator[Figure]]] = {
    "event_rates": _event_rates,
    "freshness": _freshness,
    "archiver_rate": _archiver_rate,
    "feature_rate": _feature_rate,
    "feature_reads": _feature_reads,
    "as_of_rate": _as_of_rate,
}
"""Module of `bench` -> how to read the figures with a target out of its document."""


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m bench.event_path", description=__doc__).parse_args()
    try:
        print(json.dumps(measure(Console(stderr=True)), indent=2))
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
