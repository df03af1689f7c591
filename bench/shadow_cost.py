"""What shadows cost users: live latency and throughput without copies, with 20 % and with all.

`python -m bench.shadow_cost --seconds 4 --rounds 5`; a fused gateway in this process, no HTTP
server. Shares take turns in one run, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Mapping, MutableMapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.second_bundle import write_as
from bench.shadow_bars import NO_COPIES, Round, Seen, beside, in_turn, missed
from bench.workload import prepare
from cluster.rollouts.storing.control_writer import ControlWriter
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_writer import ShadowWriter
from recsys.bundles.bundle import MANIFEST_NAME, read_manifest
from recsys.bundles.registry import open_registry
from recsys.settings import Settings
from recsys.traffic import TrafficPlan
from serve_app.gateway import Graph
from serve_app.stages.stage_replica import use_one_thread

SHARES = (NO_COPIES, 0.2, 1.0)
WHO = "bench"
N_CLIENTS = 192
MODERATE = 0.35
"""Of the throughput of `N_CLIENTS` that always ask."""


async def ask(graph: Graph, user: int, due_s: float, seen: Seen) -> None:
    """One request of a user, timed from when it was due until its answer was sent."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/recommend",
        "query_string": f"user_id={user}&k=20&deadline_ms=10000".encode(),
        "headers": [],
    }

    incoming: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            seen.statuses[int(message["status"])] += 1
        elif not message.get("more_body"):
            seen.latencies_ms.append((time.perf_counter() - due_s) * 1000)
        await asyncio.sleep(0)  # a socket's turn

    await graph.http(scope, incoming.get, send)


async def always_asking(graph: Graph, n_users: int, seconds: float, seen: Seen) -> None:
    """`N_CLIENTS` that ask again as soon as they were answered: overload."""
    end_s = time.perf_counter() + seconds

    async def client(number: int) -> None:
        rng = np.random.default_rng(number)
        while (now_s := time.perf_counter()) < end_s:
            await ask(graph, int(rng.integers(n_users)), now_s, seen)

    await asyncio.gather(*(client(number) for number in range(N_CLIENTS)))


async def at_rate(graph: Graph, n_users: int, seconds: float, rate: float, seen: Seen) -> None:
    """Poisson arrivals that wait for nobody."""
    rng = np.random.default_rng(1)
    due_s = time.perf_counter()
    end_s = due_s + seconds
    asked = []
    while (due_s := due_s + float(rng.exponential(1 / rate))) < end_s:
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        asked.append(asyncio.ensure_future(ask(graph, int(rng.integers(n_users)), due_s, seen)))
    await asyncio.gather(*asked)


class Shares:
    """Puts one share after another in force in the control store."""

    def __init__(self, graph: Graph, settings: Settings, bundle_id: str) -> None:
        self._graph = graph
        self._writer = ShadowWriter(settings.control_url)
        self._bundle_id = bundle_id
        self._n_begun = 0

    async def follow(self, share: float) -> None:
        """Return once the gateway copies this share and what went before is done."""
        self._writer.ensure_closed(f"s{self._n_begun}", WHO, 0, "next")
        if share:
            self._n_begun += 1
            running = ShadowState.RUNNING
            record = ShadowRecord(f"s{self._n_begun}", self._bundle_id, share, running, WHO, 0)
            self._writer.start(record, WHO, 0)
        expected = (share,) if share else ()
        while tuple(plan.share for plan in self._graph.residency.shadows) != expected or (
            share and self._graph.recommender.find_reached(self._bundle_id) is None
        ):
            await asyncio.sleep(0.05)
            await self._graph.turn()
        self._graph.telemetry.take()


async def measure(
    settings: Settings, shadow_id: str, options: argparse.Namespace
) -> dict[str, dict[float, Seen]]:
    """What users saw of every share, by load."""
    graph = Graph(settings, None, "bench-1", adds_request_id=True)
    await graph.start()
    shares = Shares(graph, settings, shadow_id)
    found = {load: {share: Seen() for share in SHARES} for load in ("overload", "moderate")}
    try:
        await always_asking(graph, options.users, options.seconds, Seen())
        for share, seen in in_turn(options.rounds, found["overload"]):
            await shares.follow(share)
            asking = always_asking(graph, options.users, options.seconds, seen)
            await one_round(graph, seen, asking)
        rate = MODERATE * found["overload"][NO_COPIES].figures()["requests_per_s"]
        for share, seen in in_turn(options.rounds, found["moderate"]):
            await shares.follow(share)
            asking = at_rate(graph, options.users, options.seconds, rate, seen)
            await one_round(graph, seen, asking)
    finally:
        graph.stop()
    return found


def document(found: Mapping[str, dict[float, Seen]]) -> dict[str, Any]:
    """Everything that was seen as one JSON object."""
    loads: dict[str, Any] = {}
    for load, by_share in found.items():
        loads[load] = {
            "figures": {f"{share:.0%}": seen.figures() for share, seen in by_share.items()},
            "over no copies": {
                f"{share:.0%}": {name: asdict(ratio) for name, ratio in ratios.items()}
                for share, ratios in beside(by_share).items()
            },
        }
    return {**loads, "missed": missed(found)}


async def one_round(graph: Graph, seen: Seen, asking: Awaitable[None]) -> None:
    """Time a round until its last answer; copies that are left end after it."""
    n_before, began_s = len(seen.latencies_ms), time.perf_counter()
    await asking
    of_round = seen.latencies_ms[n_before:]
    rate = len(of_round) / (time.perf_counter() - began_s)
    p50_ms, p99_ms = np.percentile(of_round, (50, 99))
    seen.rounds.append(Round(rate, float(p50_ms), float(p99_ms)))
    while not graph.shadows.is_idle:
        await asyncio.sleep(0)
    for (name, tags), n in graph.telemetry.take().counts.items():
        if name.startswith("flywheel_shadow"):
            seen.copies[" ".join(value for _, value in tags)] += n


def prepare_two(data_dir: Path, n_items: int, n_users: int) -> tuple[Settings, str]:
    """A stable bundle in force, and the same once more under the name of a shadow's."""
    settings_file, stable = prepare(data_dir, n_items, n_users)
    settings = Settings.model_validate_json(settings_file.read_text())
    was = read_manifest(stable)
    staging = data_dir / "staging" / f"{was.bundle_id}-shadow"
    shutil.copytree(stable, staging)
    (staging / MANIFEST_NAME).unlink()
    write_as(staging, was)
    shadow = open_registry(settings).publish(staging)
    writer = ControlWriter(settings.control_url)
    writer.set_required((was.bundle_id,), ())
    writer.set_plan(TrafficPlan.single(was.bundle_id, 1, "bench"), 0)
    placed = settings.serve.model_copy(update={"placement": "fused", "plan_poll_s": 0.1})
    return settings.model_copy(update={"serve": placed}), shadow.bundle_id


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print one JSON document; exits with 1 where copies cost users too much."""
    parser = argparse.ArgumentParser(prog="python -m bench.shadow_cost", description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="Of each share, per round.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(words)
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "var").mkdir()
        settings, shadow_id = prepare_two(Path(folder) / "var", options.items, options.users)
        found = asyncio.run(measure(settings, shadow_id, options))
    print(json.dumps(document(found), indent=2))
    faults = missed(found)
    for fault in faults:
        print(f"error: {fault}; run it on a machine that is quiet", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
