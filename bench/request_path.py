"""The graph against the baselines and the limit, in one run on one machine.

`python -m bench.request_path --only graph --seconds 3` is a quick look.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.must_reach import GRAPH, must_reach, show_bars
from bench.tables import best, document, show
from bench.variants import (
    bare_numerics,
    bentoml_service,
    fastapi_service,
    free_port,
    graph,
    has_bentoml,
    naive_graph,
)
from bench.workload import prepare
from bench.wrk_load import CONNECTIONS, LoadFigures, need_wrk, run_wrk, run_wrk_at
from recsys.errors import RecsysError

PATH = "/v1/recommend?user_id=%d&k=20"
BENTOML = "bentoml"
_BENTOML_PATH, _BENTOML_BODY = "/recommend", '{"user_ids": ["%d"]}'
_CONNECTIONS_AT_HALF = 64


def _load(
    console: Console, name: str, service: AbstractContextManager[str], arguments: argparse.Namespace
) -> tuple[list[LoadFigures], LoadFigures | None]:
    """The runs of a variant, and of the graph one at half of its best rate."""
    at_half = None
    console.print(f"[dim]starting {name}[/dim]")
    path, body = (_BENTOML_PATH, _BENTOML_BODY) if name == BENTOML else (PATH, "")
    with service as address:
        run_wrk(address, path, arguments.users, 32, 3, body=body)
        runs = []
        for connections in arguments.connections or CONNECTIONS:
            run = run_wrk(address, path, arguments.users, connections, arguments.seconds, body=body)
            console.print(
                f"[dim]{name} at {connections}: {run.requests_per_s:,.0f} req/s, "
                f"p99 {run.p99_ms:.0f} ms, {run.n_errors} errors[/dim]"
            )
            runs.append(run)
        if name == GRAPH:
            rate = best(runs).requests_per_s / 2
            at_half = run_wrk_at(
                address, PATH, arguments.users, rate, _CONNECTIONS_AT_HALF, arguments.seconds
            )
            console.print(
                f"[dim]{name} at half ({rate:,.0f} req/s): {at_half.requests_per_s:,.0f} req/s, "
                f"p99 {at_half.p99_ms:.0f} ms, {at_half.n_errors} errors[/dim]"
            )
    return runs, at_half


def measurable(wanted: Sequence[str], is_peer_there: bool) -> tuple[list[str], str]:
    """The variants that can be measured here, and the name of the one that cannot, if any."""
    if is_peer_there or BENTOML not in wanted:
        return list(wanted), ""
    return [name for name in wanted if name != BENTOML], BENTOML


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Load every variant asked for; every figure as one document, its tables printed."""
    data_dir = arguments.data_dir.resolve()
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    console.print(f"[dim]preparing {arguments.items:,} items, {arguments.users:,} users[/dim]")
    settings, bundle = prepare(data_dir, arguments.items, arguments.users)
    services = {
        "graph": graph(data_dir, free_port(), "link"),
        "graph by handles": graph(data_dir, free_port(), "handle"),
        "graph fused": graph(data_dir, free_port(), "fused"),
        "naive": naive_graph(data_dir, settings, bundle),
        "fastapi": fastapi_service(data_dir, settings, bundle),
        BENTOML: bentoml_service(data_dir, settings, bundle),
    }
    wanted, lacking = measurable(arguments.only or list(services), has_bentoml())
    if lacking:
        console.print(f"{lacking} is not installed and not measured; run 'make bench-peer'")
    measured = {name: _load(console, name, services[name], arguments) for name in wanted}
    loads = {name: runs for name, (runs, _) in measured.items()}
    at_half = measured[GRAPH][1] if GRAPH in measured else None
    limits = {
        batch: bare_numerics(
            settings,
            bundle,
            n_users=arguments.users,
            seconds=arguments.seconds,
            batch=batch,
            n_processes=2,
        )
        for batch in (16, 32, 64)
    }
    bars = must_reach(loads, limits, at_half)
    if GRAPH in loads:
        show(Console(), loads, limits)
        show_bars(Console(), bars)
    workload = {"items": arguments.items, "users": arguments.users, "history": 50, "dim": 64}
    return {
        **document(loads, limits, workload),
        "at_half": None if at_half is None else at_half.as_dict(),
        "must_reach": [bar.as_dict() for bar in bars],
    }


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the request path's measurement."""
    parser = argparse.ArgumentParser(prog="python -m bench.request_path", description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=6, help="of load per figure")
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench"))
    parser.add_argument(
        "--only",
        action="append",
        choices=["graph", "graph by handles", "graph fused", "naive", "fastapi", BENTOML],
    )
    parser.add_argument(
        "--connections", type=int, action="append", help=f"instead of {CONNECTIONS}"
    )
    return parser.parse_args(words)


def main() -> int:
    """Measure, print the tables, then every figure as JSON."""
    asked = parse_arguments()
    need_wrk()
    print(json.dumps(measure(asked, Console(stderr=True)), indent=2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
