"""Processor time of the request path alone, part by part: what a change of the code changes.

`python -m bench.path_cost` needs no Ray and a minute. Time is the processor's, so other work on
the machine disturbs it less than it does a rate; compare two revisions in turns all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cost_meters import metered_environment, read_costs
from bench.cost_parts import METERS
from bench.workload import prepare
from cluster.rollouts.driving.first_stable import adopt_first
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.registry import Registry
from recsys.errors import FleetError, RecsysError
from recsys.settings import Settings


@dataclass(frozen=True, slots=True)
class PathCost:
    """Microseconds of processor time per request."""

    callers: int
    total_us: float
    parts_us: dict[str, float]
    n_requests: int
    n_failed: int


def path_cost(settings_file: Path, callers: int, requests: int, users: int) -> PathCost:
    """Answer so many requests of so many callers at once in a process of their own."""
    folder = settings_file.parent / "path-costs"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **metered_environment(folder)}
    words = [str(settings_file), str(callers), str(requests), str(users)]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.path_alone", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline().strip() != "READY":
            raise FleetError("the request path did not start; see its error above")
        before = read_costs(folder)[process.pid]
        print(file=process.stdin, flush=True)
        said = process.stdout.readline().split()
        after = read_costs(folder)[process.pid]
        print(file=process.stdin, flush=True)
    total_us, n_requests, n_failed = float(said[0]), int(said[1]), int(said[2])
    parts: dict[str, float] = defaultdict(float)
    for meter, (then_us, _), (now_us, _) in zip(METERS, before, after, strict=True):
        parts[meter.part] += (now_us - then_us) / n_requests
    parts["event loop and the rest"] = total_us - sum(parts.values())
    return PathCost(callers, total_us, dict(parts), n_requests, n_failed)


def adopt(settings: Settings) -> None:
    """Make the published bundle the stable one, as `cluster up` does."""
    writer = ControlWriter(settings.control_url)
    now_ms = time.time_ns() // 1_000_000
    adopt_first(Registry(settings.registry_location), writer, settings, now_ms, lambda _: None)
    writer.close()


def show(console: Console, costs: Sequence[PathCost]) -> None:
    """Print every part, a column for each number of callers."""
    table = Table(title="processor time of the path alone, us per request")
    table.add_column("part")
    for cost in costs:
        table.add_column(f"{cost.callers} at once", justify="right")
    parts = dict.fromkeys(part for cost in costs for part in cost.parts_us)
    last = costs[-1].parts_us
    for part in sorted(parts, key=lambda part: -last.get(part, 0.0)):
        values = [cost.parts_us.get(part, 0.0) for cost in costs]
        if max(values) >= 1:
            table.add_row(part, *(f"{value:,.0f}" for value in values))
    table.add_section()
    table.add_row("all", *(f"{cost.total_us:,.0f}" for cost in costs))
    table.add_row("failed", *(str(cost.n_failed) for cost in costs))
    console.print(table)


def main() -> int:
    """Measure, print the table, then the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.path_cost", description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--requests", type=int, default=3_200, help="per number of callers")
    parser.add_argument("--callers", type=int, action="append", help="at once; 1 and 64 if absent")
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench-path"))
    parser.add_argument("--prepared", action="store_true", help="the directory is there already")
    chosen = parser.parse_args()
    data_dir = chosen.data_dir.resolve()
    if not chosen.prepared:
        shutil.rmtree(data_dir, ignore_errors=True)
        data_dir.mkdir(parents=True)
        prepare(data_dir, chosen.items, chosen.users)
    settings_file = data_dir / "settings.json"
    adopt(Settings.model_validate_json(settings_file.read_text()))
    # One at a time costs several times as much a request, and needs fewer to be known.
    costs = [
        path_cost(settings_file, callers, min(chosen.requests, 800 * callers), chosen.users)
        for callers in chosen.callers or (1, 64)
    ]
    show(Console(stderr=True), costs)
    print(json.dumps([asdict(cost) for cost in costs], indent=2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
