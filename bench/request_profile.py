"""`make bench-profile`: a real graph under bounded load, and where each microsecond of it goes.

Every Python process of the graph is started with the cost meters; what they do not cover is taken
from the kernel's clocks of threads. Writes cost_profile.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.batch_waits import BatchWaits, batch_waits, impressions_since
from bench.cost_account import CostAccount, MeterReading, account
from bench.cost_meters import CostCounts, metered_environment, read_costs
from bench.cost_parts import METERS
from bench.cost_tables import cost_page, cost_picture
from bench.cpu_clocks import command_line, elapsed, read_clocks
from bench.tables import machine
from bench.variants import free_port, graph
from bench.workload import DIM, HISTORY, prepare
from bench.wrk_load import LoadFigures, need_wrk, run_wrk
from cluster.local.owned_processes import owned_now, read_record
from cluster.local.run_files import RunFiles
from recsys.errors import FleetError, RecsysError
from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog

PATH = "/v1/recommend?user_id=%d&k=20"
_REST_S = 5.0
_WARM_S = 4
_CALIBRATED_CALLS = 50_000


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured of one placement."""

    costs: CostAccount
    waits: BatchWaits
    load: LoadFigures
    lacking: tuple[str, ...]
    """Meters whose function is no longer there."""
    metering_us: float
    """What the meters themselves use of a request, at least."""


def profile(data_dir: Path, placement: str, users: int, connections: int, seconds: int) -> Profile:
    """Start the graph in a prepared directory, load it, and account for the load."""
    counts = data_dir / "costs"
    added = metered_environment(counts)
    settings = Settings.model_validate_json((data_dir / "settings.json").read_text())
    with graph(data_dir, free_port(), placement, added) as address:
        run_wrk(address, PATH, users, connections, _WARM_S)
        pids = _pids(settings)
        before = read_clocks(pids)
        time.sleep(_REST_S)
        at_rest = elapsed(before, read_clocks(pids))
        log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
        offsets = log.end_offsets()
        clocks, costs = read_clocks(pids), read_costs(counts)
        load = run_wrk(address, PATH, users, connections, seconds)
        threads, metered = elapsed(clocks, read_clocks(pids)), _since(costs, read_costs(counts))
        commands = {pid: command_line(pid) for pid in pids}
        impressions = impressions_since(log, offsets)
        log.close()
    spent = account(threads, at_rest, _REST_S, commands, metered, METERS, load.n_requests)
    latency_ms = 1000 * load.connections / load.requests_per_s
    lacking = counts / "lacking"
    return Profile(
        spent,
        batch_waits(impressions, latency_ms),
        load,
        tuple(sorted(set(lacking.read_text().splitlines()))) if lacking.exists() else (),
        metering_us(metered, load.n_requests, counts),
    )


def metering_us(metered: MeterReading, n_requests: int, folder: Path) -> float:
    """What entering and leaving the meters costs a request, by a meter around nothing."""
    calls = sum(n for reading in metered.values() for _, n in reading)
    nothing = CostCounts(folder, METERS).metered(lambda: None, 0)
    began_ns = time.thread_time_ns()
    for _ in range(_CALIBRATED_CALLS):
        nothing()
    per_call_us = (time.thread_time_ns() - began_ns) / 1000 / _CALIBRATED_CALLS
    return per_call_us * calls / n_requests


def _pids(settings: Settings) -> list[int]:
    record = read_record(RunFiles(settings.run_dir).record)
    if record is None:
        raise FleetError(f"there is no record of processes in {settings.run_dir}; start it again")
    return [process.pid for process in owned_now(record)]


def _since(before: MeterReading, after: MeterReading) -> dict[int, list[tuple[float, int]]]:
    nothing = [(0.0, 0)] * len(METERS)
    return {
        pid: [
            (us - us_then, n - n_then)
            for (us, n), (us_then, n_then) in zip(now, before.get(pid, nothing), strict=True)
        ]
        for pid, now in after.items()
    }


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m bench.request_profile", description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--seconds", type=int, default=12, help="of load")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--placement", choices=["link", "handle", "fused"], default="link")
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench-profile"))
    parser.add_argument("--prepared", action="store_true", help="the directory is there already")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    return parser.parse_args(words)


def main() -> int:
    """Measure and write."""
    # Whoever ends this ends the graph with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = parse_arguments()
    need_wrk()
    data_dir = chosen.data_dir.resolve()
    if not chosen.prepared:
        shutil.rmtree(data_dir, ignore_errors=True)
        data_dir.mkdir(parents=True)
        prepare(data_dir, chosen.items, chosen.users)
    found = profile(data_dir, chosen.placement, chosen.users, chosen.connections, chosen.seconds)
    workload = {"items": chosen.items, "users": chosen.users, "history": HISTORY, "dim": DIM}
    document = {
        "machine": machine(),
        "workload": workload,
        "placement": chosen.placement,
        "load": found.load.as_dict(),
        "waits": found.waits.as_dict(),
        "metering_us_per_request": found.metering_us,
        "lacking_meters": found.lacking,
        **found.costs.as_dict(),
    }
    page = cost_page(document)
    (chosen.out / "cost_profile.json").write_text(json.dumps(document, indent=2) + "\n")
    (chosen.out / "cost_profile.md").write_text(page)
    (chosen.out / "cost_profile.svg").write_text(cost_picture(found.costs))
    Console().print(page, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
