"""Swaps and canaries while 32 connections ask: `python -m bench.rollouts_under_load`.

Two bundles of the same items and other scorers change places in a running service. What is
answered is held against what each bundle answers alone, so an answer made of two bundles shows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.event_service import N_USERS, event_service
from bench.second_bundle import publish_pair
from bench.slate_probes import MOST_ABORT_S, Mixed, Probes, learn_slates
from bench.wrk_load import LoadFigures, need_wrk, run_wrk
from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.deciding.rollout_plan_file import parse_plan
from cluster.rollouts.deciding.rollout_record import Phase
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.driving.rollout_runner import RolloutRunner
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.registry import open_registry
from recsys.errors import FleetError, RecsysError

N_CONNECTIONS = 32
N_PROBES = 2
"""Of the connections, those whose answers are read."""
ENDINGS = ("promote", "undo", "abort", "promote", "abort")
"""Of the canaries, in turn; `undo` promotes and then leads back."""
_LOAD_S = 5
_POLL_S = 0.02
_GIVE_UP_S = 60.0
_PLAN = """
[[steps]]
share = 0.5
min_users = 1000000
min_requests = 1000000
metrics = ["error_rate"]
"""
"""A step that evidence never ends within a run: the operator ends it."""


@dataclass(frozen=True, slots=True)
class UnderLoad:
    """What a run saw."""

    n_swaps: int
    n_canaries: int
    n_requests: int
    n_failed: int
    n_probed: int
    n_degraded: int
    """Probed answers that say that a stage was left out."""
    mixed: tuple[Mixed, ...]
    """Other probed answers that are unlike the slate their bundle gave alone."""
    n_unplanned: int
    """Probed answers by a bundle that no plan in force at that time names."""
    steady_p99_ms: tuple[float, ...]
    """Of runs of some seconds each while nothing changes."""
    changing_p99_ms: tuple[float, ...]
    """Of equal runs during swaps and canaries."""
    swap_s: tuple[float, ...]
    abort_to_zero_s: tuple[float, ...]

    def rows(self) -> tuple[tuple[str, str, bool | None], ...]:
        """What was seen, and whether it is as it must be; None where nothing is asked."""
        slowest_s = max(self.abort_to_zero_s, default=0.0)
        runs = len(self.steady_p99_ms), len(self.changing_p99_ms)
        return (
            ("failed requests", f"{self.n_failed} of {self.n_requests:,}", self.n_failed == 0),
            (
                "mixed answers",
                f"{len(self.mixed)} of {self.n_probed:,} read",
                bool(self.n_probed) and not self.mixed,
            ),
            ("degraded answers", f"{self.n_degraded} of {self.n_probed:,} read", None),
            ("answers of an unplanned bundle", f"{self.n_unplanned}", self.n_unplanned == 0),
            ("abort to zero canary answers", f"{slowest_s:.2f} s", slowest_s <= MOST_ABORT_S),
            (f"p99 steady, worst of {runs[0]}", f"{max(self.steady_p99_ms):.1f} ms", None),
            (
                f"p99 while bundles change, worst of {runs[1]}",
                f"{max(self.changing_p99_ms):.1f} ms",
                None,
            ),
            ("seconds per swap, slowest", f"{max(self.swap_s, default=0.0):.1f}", None),
        )


class Load:
    """wrk runs one after another until left; a run that fails is raised then."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool = ThreadPoolExecutor(1)
        self._stopped = threading.Event()
        self._runs: Future[list[LoadFigures]]

    def __enter__(self) -> Load:
        self._runs = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()

    @property
    def runs(self) -> list[LoadFigures]:
        """The runs, once left."""
        return self._runs.result()

    def _run(self) -> list[LoadFigures]:
        runs = [load(self._url, _LOAD_S)]
        while not self._stopped.is_set():
            runs.append(load(self._url, _LOAD_S))
        return runs


def load(url: str, duration_s: int) -> LoadFigures:
    """One wrk run beside the probes."""
    path = "/v1/recommend?user_id=%d&k=20"
    return run_wrk(url, path, N_USERS, N_CONNECTIONS - N_PROBES, duration_s)


def run(data_dir: Path, n_swaps: int, n_steady: int) -> UnderLoad:
    """Bring a service up, learn both bundles' slates, then swap and canary under load.

    Raises:
        FleetError: the service failed, or a rollout does not move.
    """
    with event_service(data_dir, "sqlite") as service:
        registry = open_registry(service.settings)
        writer = ControlWriter(service.settings.control_url)
        operator = Operator("bench", _now_ms, time.sleep, lambda _: None)
        runner = RolloutRunner(service.settings, registry, writer, operator)
        pair = publish_pair(registry, service.settings, data_dir / "pair")
        slates = {}
        for bundle_id in pair:
            runner.start(bundle_id)
            slates[bundle_id] = learn_slates(service.url)
        load(service.url, _LOAD_S)
        steady = [load(service.url, _LOAD_S) for _ in range(n_steady)]
        probes = Probes(service.url, service.settings.control_url, slates, N_PROBES)
        with probes, Load(service.url) as loaded:
            swap_s = tuple(_timed(runner, pair[n % 2]) for n in range(n_swaps))
            if n_swaps % 2:  # the canaries begin with the second as stable
                runner.start(pair[1])
            endings = _Canaries(runner, writer, probes, pair)
            aborted_s = tuple(s for how in ENDINGS for s in endings.one(how))
        return UnderLoad(
            n_swaps=n_swaps,
            n_canaries=len(ENDINGS),
            n_requests=sum(r.n_requests for r in loaded.runs) + len(probes.seen),
            n_failed=sum(r.n_errors for r in loaded.runs) + probes.n_failed,
            n_probed=len(probes.seen),
            n_degraded=probes.n_degraded,
            mixed=probes.mixed,
            n_unplanned=probes.n_unplanned,
            steady_p99_ms=tuple(r.p99_ms for r in steady),
            changing_p99_ms=tuple(r.p99_ms for r in loaded.runs),
            swap_s=swap_s,
            abort_to_zero_s=aborted_s,
        )


def _timed(runner: RolloutRunner, bundle_id: str) -> float:
    began_s = time.monotonic()
    runner.start(bundle_id)
    return time.monotonic() - began_s


class _Canaries:
    """Canaries that an operator ends, each against what is stable at that time."""

    def __init__(
        self,
        runner: RolloutRunner,
        writer: ControlWriter,
        probes: Probes,
        pair: tuple[str, str],
    ) -> None:
        self._runner = runner
        self._writer = writer
        self._probes = probes
        self._canary, self._stable = pair
        self._plan: RolloutPlan = parse_plan(_PLAN, "half")

    def one(self, ending: str) -> tuple[float, ...]:
        """Begin one, wait for its answers, end it; the seconds to zero of an abort."""
        began_ms = _now_ms()
        self._runner.start(self._canary, self._plan)
        canary = self._canary
        self._wait(lambda: self._phase() is Phase.CANARY, "the first step")
        self._wait(lambda: self._probes.last_ms(canary) >= began_ms, "an answer of the canary")
        if ending == "abort":
            aborted_ms = _now_ms()
            self._runner.abort()
            self._wait(
                lambda: self._probes.newest_ms() > aborted_ms + 2_000 * MOST_ABORT_S,
                "answers after the abort",
            )
            return (max(0, self._probes.last_ms(canary) - aborted_ms) / 1000,)
        self._runner.promote(full=True)
        self._wait(self._is_closed, "the end of the promotion")
        if ending == "undo":
            self._runner.undo()
        else:
            self._canary, self._stable = self._stable, self._canary
        return ()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _GIVE_UP_S
        while not condition():
            self._probes.check()
            if time.monotonic() > deadline_s:
                raise FleetError(
                    f"waited {_GIVE_UP_S:.0f} s in vain for {what}; see 'cluster status'"
                )
            time.sleep(_POLL_S)

    def _is_closed(self) -> bool:
        return self._writer.rollouts()[-1].rollout.is_closed

    def _phase(self) -> Phase:
        return self._writer.rollouts()[-1].rollout.phase


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def show(console: Console, found: UnderLoad) -> None:
    """Print the table."""
    table = Table(
        title=f"{found.n_swaps} swaps, {found.n_canaries} canaries, {N_CONNECTIONS} connections"
    )
    for column in ("what", "seen", "must hold"):
        table.add_column(column)
    for what, seen, holds in found.rows():
        table.add_row(what, seen, "" if holds is None else ("holds" if holds else "MISSED"))
    console.print(table)


def main() -> int:
    """Measure and print; with `--json` one document. Exits with 1 where a figure is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.rollouts_under_load", description=__doc__
    )
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--steady", type=int, default=4, help="runs of 5 s before")
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench-rollouts"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    need_wrk()
    found = run(arguments.data_dir.resolve(), arguments.swaps, max(1, arguments.steady))
    if arguments.json:
        print(json.dumps({"cores": os.cpu_count(), **asdict(found)}, indent=2))
    else:
        show(Console(), found)
    return int(any(holds is False for _, _, holds in found.rows()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
