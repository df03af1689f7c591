"""A service for a long time: `python -m bench.soak --minutes 30`.

A moderate load whatever the answers do, two bundles that change places, and in the second part a
training alongside. Reports failed requests, how the memory and the open files of every process
grow after a warm-up, and the 99th percentile beside the training against that without. Exits with
1 where a figure misses what must hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.event_service import N_USERS, EventService, event_service
from bench.open_loop import Phase, Seen, send_load
from bench.process_watch import ProcessWatch
from bench.second_bundle import publish_pair
from bench.soak_figures import ProcessGrowth, Soak, growth_of, p99_of
from bench.wrk_load import need_wrk, run_wrk
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.driving.rollout_runner import RolloutRunner
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.registry import open_registry
from recsys.errors import RecsysError

PATH = "/v1/recommend?user_id=%d"
LOAD_SHARE = 0.3
"""Of the best rate with 32 connections."""
WARM_SHARE, MOST_WARM_S = 0.25, 300.0
SWAP_EVERY_S = 30.0
TRAINING_EVENTS, TRAINING_MINUTES = 500_000, 10.0
_TRAINING_NICE = "10"
_MOST_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Times:
    """When the parts of a run begin, in seconds since the load began."""

    warm_s: float
    training_s: float
    ended_s: float

    @classmethod
    def of(cls, minutes: float) -> Times:
        """A warm-up, then half of the rest without and half with a training."""
        ended_s = 60.0 * minutes
        warm_s = min(WARM_SHARE * ended_s, MOST_WARM_S)
        return cls(warm_s, warm_s + (ended_s - warm_s) / 2, ended_s)


class Swaps:
    """Two bundles that change places until left; a swap that fails is raised then."""

    def __init__(self, service: EventService, folder: Path) -> None:
        registry = open_registry(service.settings)
        writer = ControlWriter(service.settings.control_url)
        operator = Operator("soak", lambda: time.time_ns() // 1_000_000, time.sleep, lambda _: None)
        self._runner = RolloutRunner(service.settings, registry, writer, operator)
        self._pair = publish_pair(registry, service.settings, folder)
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.n_done = 0

    @contextmanager
    def __call__(self) -> Generator[None]:
        """Swap while the body runs."""
        swaps = self._pool.submit(self._swap)
        try:
            yield
        finally:
            self._stopped.set()
            self._pool.shutdown()
        swaps.result()

    def _swap(self) -> None:
        for bundle_id in itertools.cycle(self._pair):
            if self._stopped.wait(SWAP_EVERY_S):
                return
            self._runner.start(bundle_id)
            self.n_done += 1


class Trainings:
    """One training after the other, from a time on; each is a process of its own."""

    def __init__(self, folder: Path, begin_s: float) -> None:
        self._folder = folder
        self._begin_s = begin_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self.n_done = 0

    def __enter__(self) -> Trainings:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _train(self) -> None:
        if self._stopped.wait(self._begin_s):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "training.log").open("ab") as log:
            while not self._stopped.is_set():
                self._one(log.fileno())

    def _one(self, log: int) -> None:
        command = ["nice", "-n", _TRAINING_NICE, sys.executable, "-m", "bench.training_memory"]
        command += ["--folder", str(self._folder), "--events", str(TRAINING_EVENTS)]
        command += ["--threads", "1", "--max-minutes", str(TRAINING_MINUTES)]
        process = subprocess.Popen(
            [*command, "--max-steps", "1000000"], stdout=log, stderr=log, start_new_session=True
        )
        while process.poll() is None and not self._stopped.wait(0.5):
            pass
        if process.poll() is None:
            end_tree(process)
            self.n_done += 1
        elif process.returncode == 0:
            self.n_done += 1
        else:
            # The count says that there was none; the log says why.
            self._stopped.set()


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and all of it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(data_dir: Path, minutes: float, console: Console) -> Soak:
    """Soak one service.

    Raises:
        FleetError: the service or wrk failed, or a rollout does not move.
    """
    times = Times.of(minutes)
    with event_service(data_dir, "sqlite") as service:
        best = run_wrk(service.url, PATH, N_USERS, 32, 8)
        rate = LOAD_SHARE * best.requests_per_s
        console.print(f"[dim]{best}; {rate:.0f} req/s from here on[/dim]")
        swaps = Swaps(service, data_dir / "pair")
        trainings = Trainings(data_dir / "training", times.training_s)
        watch = ProcessWatch(data_dir)
        with watch, trainings, swaps():
            seen = _load(service.url, rate, times.ended_s)
    return soak_of(seen, times, rate, swaps.n_done, trainings.n_done,
                   growth_of(watch.series, times.warm_s, times.ended_s))  # fmt: skip


def _load(url: str, rate: float, seconds: float) -> Seen:
    address = urlsplit(url)
    paths = [PATH % user for user in range(N_USERS)]
    return send_load(str(address.hostname), int(address.port or 80), paths, [Phase(rate, seconds)])


def soak_of(
    seen: Seen,
    times: Times,
    rate: float,
    n_swaps: int,
    n_trainings: int,
    processes: tuple[ProcessGrowth, ...],
) -> Soak:
    """The figures of a run."""
    return Soak(
        minutes=times.ended_s / 60,
        requests_per_s=rate,
        n_requests=len(seen.status),
        n_failed=int((seen.status != HTTPStatus.OK).sum()),
        n_unsent=seen.n_unsent,
        n_swaps=n_swaps,
        n_trainings=n_trainings,
        alone_p99_ms=p99_of(seen.during(times.warm_s, times.training_s)),
        training_p99_ms=p99_of(seen.during(times.training_s, times.ended_s)),
        processes=processes,
    )


def show(console: Console, found: Soak) -> None:
    """Print both tables."""
    table = Table(title=f"{found.minutes:g} minutes", min_width=80)
    for column in ("what", "measured", ""):
        table.add_column(column)
    for what, measured, holds in found.rows():
        table.add_row(what, measured, "" if holds is None else "holds" if holds else "MISSED")
    console.print(table)
    each = Table(title="processes, steepest first", min_width=80)
    for column in ("process", "MB/min", "MB", "files"):
        each.add_column(column)
    for one in found.processes[:_MOST_SHOWN]:
        each.add_row(one.process, f"{one.mb_per_min:+.2f}", f"{one.rss_mb:.0f}",
                     f"{one.more_files:+.0f}")  # fmt: skip
    console.print(each)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak and print; with `--json` one document."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench-soak"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    need_wrk()
    progress = Console(stderr=True)
    found = run(options.data_dir.resolve(), options.minutes, progress)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
    show(progress if options.json else Console(), found)
    return int(any(holds is False for _, _, holds in found.rows()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
