"""`python -m bench.scale`: the index at sizes that fit here, and what larger loads need.

Writes `bench/scale.md`, `.json` and pictures; exits 1 where the largest index misses a bar.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bench.path_cost import adopt, path_cost
from bench.quality_table import machine
from bench.scale.capacity import Policy, StageCost
from bench.scale.costs import SHARD, slowed, stage_costs, transport_of
from bench.scale.model import RATES, SIZES, Planned, accounted_rate, one_process, planned, predicted
from bench.scale.report import missed, page, pictures
from bench.workload import prepare
from recsys.errors import FleetError, RecsysError
from recsys.settings import Settings

MOST_IN_SHARD = 2_500_000
"""Items of a measured shard; four of them are the ten million."""
N_PATH_ITEMS, N_USERS = 50_000, 5_000
LOADS = (0.3, 0.6)
"""Of what one process answers at most."""


def measure_index(n_items: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Build, then search one size, in processes of their own."""
    n_shards = max(2, -(-n_items // MOST_IN_SHARD))
    print(f"index of {n_items:,} items in {n_shards} shards", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="flywheel-scale-") as scratch:
        folder = Path(asked.keep or scratch) / f"{n_items}-{asked.recall_target:g}"
        built_file = folder / "built.json"
        target = ["--recall-target", str(asked.recall_target)]
        size = ["--items", str(n_items), "--shards", str(n_shards)]
        if not built_file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            built = _json_of("bench.scale.index_point", "build", str(folder), *size, *target)
            built_file.write_text(json.dumps(built))
        load = ["--rate", str(asked.rate), "--seconds", str(asked.seconds)]
        found = _json_of("bench.scale.index_point", "search", str(folder), *size, *load)
        return {
            "items": n_items,
            "shards": n_shards,
            **json.loads(built_file.read_text()),
            **found,
        }


class PathFound(NamedTuple):
    """What was measured of the request path."""

    costs: dict[str, StageCost]
    checks: list[dict[str, float]]
    greatest_rate: float
    """Requests per second of one process."""
    slowness: float
    """Time by the clock over the accounted processor time, when as many as can be are answered."""


def measure_path(folder: Path, seconds: float, transport_us: Mapping[str, float]) -> PathFound:
    """The cost account of the path alone, and its latency beside the simulation's."""
    print("the request path in one process", file=sys.stderr)
    prepare(folder, N_PATH_ITEMS, N_USERS)
    settings_file = folder / "settings.json"
    settings = Settings.model_validate_json(settings_file.read_text())
    adopt(settings)
    alone = path_cost(settings_file, 1, 800, N_USERS)
    together = path_cost(settings_file, 64, 3_200, N_USERS)
    words = [str(settings_file), str(N_USERS), str(seconds), *map(str, LOADS)]
    seen = _json_of("bench.scale.graph_point", *words)
    bare = stage_costs(alone, together, {})
    slowness = accounted_rate(bare, settings.serve.max_batch) / seen["greatest_rate"]
    process = one_process(slowed(bare, slowness), settings.serve.max_batch)
    checks = seen["points"]
    for check in checks:
        p50_ms, p99_ms = predicted(process, check["requests_per_s"])
        check |= {"simulated_p50_ms": p50_ms, "simulated_p99_ms": p99_ms}
    costs = slowed(stage_costs(alone, together, transport_us), slowness)
    return PathFound(costs, checks, seen["greatest_rate"], slowness)


def _json_of(module: str, *words: str) -> Any:
    """What a process of this bench prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise FleetError(f"{module} {words[0]} ended with {done.returncode}; see its error above")
    return json.loads(done.stdout)


def plan_all(
    costs: dict[str, StageCost], points: list[dict[str, Any]], policy: Policy
) -> list[Planned]:
    """Every size and rate of the table."""
    sizes_us = [(point["items"] // point["shards"], point["shard_cpu_us"]) for point in points]
    largest = points[-1]
    shard_bytes = largest["index_mb"] * 2**20 / largest["items"]
    shard = StageCost(SHARD, 0.0, costs[SHARD].each_us, shard_bytes)
    costs = {**costs, SHARD: shard}
    plans = []
    for n_items in SIZES:
        for rate in RATES:
            print(f"planning {n_items:,} items, {rate:,.0f} requests/s", file=sys.stderr)
            plans.append(planned(costs, sizes_us, n_items, rate, policy))
    return plans


def main() -> int:
    """Measure, model, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--items", type=int, action="append", help="100 k, 1 M and 10 M if absent")
    parser.add_argument(
        "--recall-target", type=float, default=0.95, help="`retrieval.recall_target` of the shards"
    )
    parser.add_argument("--rate", type=float, default=50.0, help="searches a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument(
        "--keep", type=Path, help="where built indexes stay, and are taken from the next time"
    )
    parser.add_argument("--profile", type=Path, default=Path("bench/cost_profile.json"))
    parser.add_argument("--out", type=Path, default=Path("bench"))
    asked = parser.parse_args()
    transport_us = {}
    if asked.profile.exists():
        transport_us = transport_of(json.loads(asked.profile.read_text())["rows"])
    with tempfile.TemporaryDirectory(prefix="flywheel-scale-") as folder:
        path = measure_path(Path(folder), asked.seconds, transport_us)
    sizes = sorted(asked.items or (100_000, 1_000_000, 10_000_000))
    points = [measure_index(n_items, asked) for n_items in sizes]
    policy = Policy()
    plans = plan_all(path.costs, points, policy)
    document = {
        "machine": machine(),
        "index": points,
        "rate": asked.rate,
        "recall_target": asked.recall_target,
        "k": 200,
        "costs": {name: asdict(cost) for name, cost in path.costs.items()},
        "transport_us": transport_us,
        "greatest_rate": path.greatest_rate,
        "slowness": path.slowness,
        "checks": path.checks,
        "policy": asdict(policy),
        "plans": [asdict(one) for one in plans],
    }
    (asked.out / "scale.json").write_text(json.dumps(document, indent=1) + "\n")
    (asked.out / "scale.md").write_text(page(document, plans, policy))
    for name, picture in pictures(document).items():
        (asked.out / name).write_text(picture)
    faults = missed(points)
    for fault in faults:
        print(f"error: {fault}; run it on a machine that is quiet", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
