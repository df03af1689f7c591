"""The cost account says all it measured, and nothing twice."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest

from bench.cost_account import CostRow, account
from bench.cost_meters import CostCounts, metered_environment, put_in, read_costs
from bench.cost_parts import LOOP, METERS, Meter
from bench.cpu_clocks import ThreadClock, elapsed, read_clocks

GATEWAY, HAPROXY, OTHER = 7, 8, 9
COMMANDS = {
    GATEWAY: "ray::ServeReplica:recommend:Gateway",
    HAPROXY: "/usr/bin/haproxy -db -f haproxy.cfg",
    OTHER: "something nobody has named",
}
TWO_METERS = (
    Meter("m", "f", "features: arrays", "numerics"),
    Meter("m", "g", "log: written", "logging", "log: writer's thread"),
)


def thread(pid: int, thread_id: int, name: str, cpu_us: float) -> ThreadClock:
    """What a thread used."""
    return ThreadClock(pid, thread_id, name, cpu_us, waited_us=cpu_us / 2)


def rows_of(rows: tuple[CostRow, ...]) -> dict[tuple[str, str], float]:
    """Microseconds by place and part."""
    return {(row.place, row.part): row.cpu_us for row in rows}


def test_the_parts_of_an_account_sum_to_all_processor_time() -> None:
    """A meter's time is taken off its thread's, and what has no name stays without one."""
    threads = [
        thread(GATEWAY, 1, "AsyncIO Thread:", 1000),
        thread(GATEWAY, 2, "event-log-write", 300),
        thread(GATEWAY, 3, "worker.io", 100),
        thread(HAPROXY, 4, "haproxy", 200),
        thread(OTHER, 5, "x", 50),
    ]
    metered = {GATEWAY: [(800.0, 10), (250.0, 5)]}
    found = account(threads, [], 1.0, COMMANDS, metered, TWO_METERS, 10)
    assert found.total_us == pytest.approx(165)
    assert rows_of(found.rows) == {
        ("Gateway", "features: arrays"): 80.0,
        ("Gateway", LOOP): 20.0,
        ("Gateway", "log: written"): 25.0,
        ("Gateway", "log: writer's thread"): 5.0,
        ("Gateway", "Ray core"): 10.0,
        ("http: HAProxy", "beside the requests"): 20.0,
        ("unknown process", "unknown process"): 5.0,
    }
    assert found.unexplained_share == pytest.approx((20 + 5) / 165)
    assert found.waited_us["Gateway"] == pytest.approx(70)


def ticking(step_ns: int) -> Callable[[], int]:
    """A clock that goes on by a step each time it is read."""
    ticks = count(0, step_ns)
    return lambda: next(ticks)


def test_a_meter_counts_its_function_without_the_metered_ones_it_calls(tmp_path: Path) -> None:
    """Of each stretch between two readings of the clock the innermost meter has all."""
    counts = CostCounts(tmp_path, TWO_METERS, ticking(1000))
    inner = counts.metered(lambda: "done", 1)
    outer = counts.metered(lambda: inner() + inner(), 0)
    assert outer() == "donedone"
    (reading,) = read_costs(tmp_path).values()
    assert reading == [(3.0, 1), (2.0, 2)]


def test_a_coroutine_is_metered_only_while_it_runs(tmp_path: Path) -> None:
    """While it waits others run, and neither pays for the other; exceptions pass."""
    counts = CostCounts(tmp_path, TWO_METERS, ticking(1000))

    async def wait(n: int) -> int:
        for _ in range(n):
            await asyncio.sleep(0)
        if n == 3:
            raise KeyError(n)
        return n

    async def both() -> list[int | BaseException]:
        first, second = counts.metered(wait, 0), counts.metered(wait, 1)
        return await asyncio.gather(first(2), second(3), return_exceptions=True)

    done, failed = asyncio.run(both())
    assert done == 2
    assert isinstance(failed, KeyError)
    (reading,) = read_costs(tmp_path).values()
    assert reading == [(3.0, 1), (4.0, 1)]


def test_a_cancelled_coroutine_is_told(tmp_path: Path) -> None:
    """What is thrown into the metered coroutine reaches its own `except`."""
    counts = CostCounts(tmp_path, TWO_METERS)
    told = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def cancel() -> None:
        task = asyncio.ensure_future(counts.metered(wait, 0)())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(cancel())
    assert told == ["cancelled"]


def test_a_meter_without_its_function_is_named(tmp_path: Path) -> None:
    """A renamed function is said to be lacking and leaves the others metered."""
    module = types.ModuleType("m")
    module.f = lambda: 1  # type: ignore[attr-defined]
    counts = CostCounts(tmp_path, TWO_METERS)
    assert put_in(module, counts, TWO_METERS) == ["m:g"]
    assert module.f() == 1
    (reading,) = read_costs(tmp_path).values()
    assert [calls for _, calls in reading] == [1, 0]


def test_a_process_of_the_environment_is_metered(tmp_path: Path) -> None:
    """Calls in a process that knows nothing of meters are counted under its id."""
    program = (
        "import os, recsys.candidates as c, numpy as np;"
        "c.merge_top_k([np.zeros((1, 2), np.int32)], [np.zeros((1, 2), np.float32)], 2);"
        "print(os.getpid())"
    )
    environment = {**os.environ, **metered_environment(tmp_path / "costs")}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    reading = read_costs(tmp_path / "costs")[int(done.stdout)]
    calls = {meter.function: n for meter, (_, n) in zip(METERS, reading, strict=True) if n}
    assert calls == {"merge_top_k": 1}


def functions_of(module: str) -> set[str]:
    """The functions and methods that a module's source defines, as `Class.method`."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    named = set()
    for node in ast.parse(Path(spec.origin).read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for function in inner or [node]:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                named.add(f"{prefix}{function.name}")
    return named


@pytest.mark.parametrize("module", sorted({meter.module for meter in METERS}))
def test_every_meter_has_its_function(module: str) -> None:
    """The table of meters names functions that their modules define."""
    wanted = {meter.function for meter in METERS if meter.module == module}
    assert wanted <= functions_of(module)


def test_clocks_of_this_process_run_forward(tmp_path: Path) -> None:
    """A thread's clock is its own; a thread that began in between counts from its begin."""
    task = tmp_path / "5" / "task" / "6"
    task.mkdir(parents=True)
    (task / "comm").write_text("worker\n")
    (task / "schedstat").write_text("2000000 500000 3\n")
    before = read_clocks([5, 404], tmp_path)
    (task / "schedstat").write_text("7000000 500000 9\n")
    new = tmp_path / "5" / "task" / "8"
    new.mkdir()
    (new / "comm").write_text("new\n")
    (new / "schedstat").write_text("1000 0 1\n")
    spent = {clock.name: clock for clock in elapsed(before, read_clocks([5], tmp_path))}
    assert spent["worker"].cpu_us == pytest.approx(5000)
    assert spent["worker"].waited_us == pytest.approx(0)
    assert spent["new"].cpu_us == pytest.approx(1)
