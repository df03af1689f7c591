"""What a run says of the bars."""

from __future__ import annotations

import pytest

from bench.must_reach import Bar, must_reach
from bench.wrk_load import LoadFigures


def run(connections: int, rate: float, p50_ms: float = 1.0, p99_ms: float = 10.0) -> LoadFigures:
    """The figures of one run without errors."""
    return LoadFigures(connections, rate, p50_ms, p99_ms, int(rate), 0)


def verdicts(bars: list[Bar]) -> dict[str, str]:
    """By bar."""
    return {bar.what: bar.verdict for bar in bars}


def test_every_bar_is_judged_by_its_own_side() -> None:
    """Throughput has to be above its bar, latency below; past the aim is said."""
    graph = [run(1, 200, p50_ms=5.0), run(32, 900), run(128, 1200), run(256, 1600)]
    fastapi = [run(1, 400), run(32, 1000), run(128, 1000), run(256, 1000)]
    loads = {"graph": graph, "naive": [run(32, 60)], "fastapi": fastapi}
    bars = must_reach(loads, {16: 3000.0, 64: 4000.0}, run(64, 800, p99_ms=45.0))
    assert verdicts(bars) == {
        "best req/s / naive": "hold",
        "req/s / 2 FastAPI workers, 32 connections": "miss",
        "req/s / 2 FastAPI workers, 128 connections": "hold",
        "req/s / 2 FastAPI workers, 256 connections": "aim",
        "best req/s / bare numerics": "hold",
        "p99 ms at half of best req/s": "hold",
        "p50 ms with one connection": "miss",
    }
    assert bars[0].measured == pytest.approx(1600 / 60)


def test_what_was_not_run_has_no_bar() -> None:
    """A quick look at the graph alone says nothing of the baselines."""
    bars = must_reach({"graph": [run(32, 900)]}, {}, None)
    assert bars == []
    assert must_reach({"fastapi": [run(32, 900)]}, {16: 1.0}, None) == []


def test_a_baseline_that_answers_nothing_has_no_bar() -> None:
    """Nobody divides by its rate of 0."""
    bars = must_reach({"graph": [run(32, 900)], "naive": [run(32, 0)], "fastapi": []}, {}, None)
    assert bars == []
