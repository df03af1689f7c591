"""The bars that the request path has to reach, and whether a run holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from bench.wrk_load import LoadFigures

GRAPH, NAIVE, FASTAPI = "graph", "naive", "fastapi"
TIMES_NAIVE, TIMES_NAIVE_AIM = 25.0, 50.0
TIMES_FASTAPI = {32: 1.0, 128: 1.1, 256: 1.1}
"""By connections: the graph's req/s over those of two FastAPI workers."""
TIMES_FASTAPI_AIM = 1.5
SHARE_OF_LIMIT, SHARE_OF_LIMIT_AIM = 0.35, 0.6
P99_AT_HALF_MS, P99_AT_HALF_AIM_MS = 60.0, 30.0
P50_ALONE_MS, P50_ALONE_AIM_MS = 4.0, 2.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure beside what it must and what it should be."""

    what: str
    measured: float
    must: float
    aim: float
    is_least: bool
    """Whether the figure has to be at least the bar; otherwise at most."""

    def reaches(self, level: float) -> bool:
        """Whether the figure is on the good side of a level."""
        return self.measured >= level if self.is_least else self.measured <= level

    @property
    def verdict(self) -> Literal["aim", "hold", "miss"]:
        """`aim` where more than what it must is reached."""
        if self.reaches(self.aim):
            return "aim"
        return "hold" if self.reaches(self.must) else "miss"

    def as_dict(self) -> dict[str, Any]:
        """The bar and its verdict as JSON values."""
        return {**asdict(self), "verdict": self.verdict}


def must_reach(
    loads: Mapping[str, Sequence[LoadFigures]],
    limits: Mapping[int, float],
    at_half: LoadFigures | None,
) -> list[Bar]:
    """Every bar that these runs can tell of; what was not run has none.

    Args:
        loads: by variant.
        limits: slates per second of the bare numerics, by batch.
        at_half: the graph at half of its best rate.
    """
    runs = loads.get(GRAPH, ())
    if not runs:
        return []
    best = max(run.requests_per_s for run in runs)
    bars = []
    if naive := max((run.requests_per_s for run in loads.get(NAIVE, ())), default=0.0):
        times = best / naive
        bars.append(Bar("best req/s / naive", times, TIMES_NAIVE, TIMES_NAIVE_AIM, True))
    bars += _beside_fastapi(runs, loads.get(FASTAPI, ()))
    if limits:
        share = best / max(limits.values())
        bars.append(
            Bar("best req/s / bare numerics", share, SHARE_OF_LIMIT, SHARE_OF_LIMIT_AIM, True)
        )
    if at_half is not None:
        words = "p99 ms at half of best req/s"
        bars.append(Bar(words, at_half.p99_ms, P99_AT_HALF_MS, P99_AT_HALF_AIM_MS, False))
    alone = [run.p50_ms for run in runs if run.connections == 1]
    words = "p50 ms with one connection"
    return bars + [Bar(words, p50, P50_ALONE_MS, P50_ALONE_AIM_MS, False) for p50 in alone]


def _beside_fastapi(runs: Sequence[LoadFigures], fastapi: Sequence[LoadFigures]) -> list[Bar]:
    rates = {run.connections: run.requests_per_s for run in fastapi if run.requests_per_s}
    return [
        Bar(
            f"req/s / 2 FastAPI workers, {run.connections} connections",
            run.requests_per_s / rates[run.connections],
            TIMES_FASTAPI[run.connections],
            TIMES_FASTAPI_AIM,
            True,
        )
        for run in runs
        if run.connections in TIMES_FASTAPI and run.connections in rates
    ]


def show_bars(console: Console, bars: Sequence[Bar]) -> None:
    """Print every bar with its verdict."""
    table = Table(title="what the graph must reach")
    for column in ("what", "measured", "must", "aim", ""):
        table.add_column(column, justify="left" if column in {"what", ""} else "right")
    for bar in bars:
        sign = ">=" if bar.is_least else "<="
        table.add_row(
            bar.what,
            f"{bar.measured:,.2f}",
            f"{sign} {bar.must:g}",
            f"{sign} {bar.aim:g}",
            bar.verdict,
        )
    console.print(table)
