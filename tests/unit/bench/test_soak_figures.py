"""What a soak must hold, each bar by its own side, and how a process is watched."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.open_loop import Seen
from bench.process_watch import DATA_DIR, Look, ProcessWatch, service_processes
from bench.soak import Times, soak_of
from bench.soak_figures import ProcessGrowth, Soak, growth_of


def looks(slope: float, files: float = 0.0, until_s: int = 600) -> list[Look]:
    """One process every 5 s: MB and files more a minute."""
    return [Look(t, 100 + slope * t / 60, int(30 + files * t / 60)) for t in range(0, until_s, 5)]


def a_soak() -> Soak:
    """One in which everything holds."""
    growth = (ProcessGrowth("gateway (1)", 0.2, 180.0, 1.0),)
    return Soak(30.0, 100.0, 180_000, 0, 0, 40, 2, 20.0, 30.0, growth)


def missed(soak: Soak) -> list[str]:
    """The bars that are missed."""
    return [what for what, _, holds in soak.rows() if holds is False]


def test_a_good_run_misses_nothing() -> None:
    """The figures at their usual."""
    assert missed(a_soak()) == []


@pytest.mark.parametrize(
    ("change", "bar"),
    [
        ({"n_failed": 1}, "failed requests"),
        ({"n_unsent": 1}, "load"),
        ({"n_swaps": 0}, "swaps of bundles"),
        ({"n_trainings": 0}, "trainings"),
        ({"training_p99_ms": 41.0}, "p99 beside training"),
        ({"processes": (ProcessGrowth("scorer (2)", 1.0, 1.0, 0.0),)}, "steepest memory"),
        ({"processes": (ProcessGrowth("scorer (2)", 0.0, 1.0, 9.0),)}, "most new open files"),
    ],
)
def test_each_bar_is_missed_by_itself(change: dict[str, object], bar: str) -> None:
    """One step past it."""
    assert missed(replace(a_soak(), **change)) == [bar]  # type: ignore[arg-type]


def test_a_run_that_watched_nobody_is_no_good_run() -> None:
    """No process is no flat memory."""
    assert missed(replace(a_soak(), processes=())) == ["steepest memory", "most new open files"]


def test_growth_counts_after_the_warm_up_and_of_who_lived_long_enough() -> None:
    """Steepest first; a process that was there for a moment has no slope."""
    warm = [replace(look, rss_mb=look.rss_mb + (min(look.at_s, 100) * 5)) for look in looks(0.0)]
    series = {"warm": warm, "grows": looks(2.0, files=3.0), "brief": looks(50.0, until_s=200)}
    found = growth_of(series, 150.0, 600.0)
    assert [one.process for one in found] == ["grows", "warm"]
    assert found[0].mb_per_min == pytest.approx(2.0)
    assert found[0].more_files == pytest.approx(15, abs=1)
    assert found[1].mb_per_min == pytest.approx(0.0)


def test_the_percentiles_are_of_their_own_part_of_the_run() -> None:
    """The warm-up is in none; whatever is no 200 failed."""
    due_s = np.array([1.0, 40.0, 100.0, 110.0])
    status = np.array([200, 200, 200, 503])
    seen = Seen(due_s, np.array([900.0, 10.0, 30.0, 1.0]), status, 0)
    times = Times.of(2.0)
    assert (times.warm_s, times.training_s, times.ended_s) == (30.0, 75.0, 120.0)
    found = soak_of(seen, times, 5.0, 1, 1, ())
    assert (found.alone_p99_ms, found.training_p99_ms, found.n_failed) == (10.0, 30.0, 1)


def test_processes_are_found_by_their_environment_and_whoever_is_below_them(
    tmp_path: Path,
) -> None:
    """A service that another process has started, with a child that knows nothing of it."""
    below = "import sys; print('up', flush=True); sys.stdin.read()"
    # Two steps, so that it is nobody's child here, as a service that `cluster up` has left.
    above = (
        f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {below!r}], env={{}})"
    )
    launcher = (
        "import subprocess, sys; "
        f"print(subprocess.Popen([sys.executable, '-c', {above!r}]).pid, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher],
        env={**os.environ, DATA_DIR: str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = {process.stdout.readline().strip() for _ in range(2)}
        process.wait()
        assert "up" in said
        assert len(service_processes(str(tmp_path))) == 2
        watch = ProcessWatch(tmp_path)
        watch.look()
        assert all(one.rss_mb > 0 and one.n_files > 0 for [one] in watch.series.values())
        assert len(watch.series) == 2
        assert process.stdin is not None
        process.stdin.close()
