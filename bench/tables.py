"""What was measured, as tables for a person and as one document for a program."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.wrk_load import LoadFigures


def best(figures: Sequence[LoadFigures]) -> LoadFigures:
    """The run with the highest throughput, whatever its number of connections."""
    return max(figures, key=lambda run: run.requests_per_s)


def ratios(loads: Mapping[str, Sequence[LoadFigures]], limit: float) -> dict[str, float]:
    """The graph's best over each baseline's best, and over the limit."""
    top = best(loads["graph"]).requests_per_s
    found = {f"graph / {name}": top / best(runs).requests_per_s for name, runs in loads.items()}
    return {**found, "graph / limit": top / limit}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def document(
    loads: Mapping[str, Sequence[LoadFigures]],
    limits: Mapping[int, float],
    workload: dict[str, Any],
) -> dict[str, Any]:
    """Every figure and the machine, as JSON values."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "workload": workload,
        "http": {name: [run.as_dict() for run in runs] for name, runs in loads.items()},
        "bare_numerics_per_s": {str(batch): rate for batch, rate in limits.items()},
        "ratios": ratios(loads, max(limits.values())) if "graph" in loads else {},
    }


def show(
    console: Console, loads: Mapping[str, Sequence[LoadFigures]], limits: Mapping[int, float]
) -> None:
    """Print the load table, the limit and the ratios."""
    table = Table(title="req/s, latency and errors by connections")
    for column in ("variant", "connections", "req/s", "p50 ms", "p99 ms", "errors"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, runs in loads.items():
        for run in runs:
            table.add_row(
                name,
                str(run.connections),
                f"{run.requests_per_s:,.0f}",
                f"{run.p50_ms:.1f}",
                f"{run.p99_ms:.1f}",
                str(run.n_errors),
            )
        table.add_section()
    console.print(table)
    for batch, rate in limits.items():
        console.print(f"limit, batches of {batch} in two processes: {rate:,.0f} slates/s")
    for name, ratio in ratios(loads, max(limits.values())).items():
        if name != "graph / graph":
            console.print(f"{name}: [bold]{ratio:.2f}[/bold]")
