"""Equal canaries judged by requests at every look: false aborts where requests are no strangers.

`python -m bench.request_looks [--rollouts N] [--out FOLDER]` writes request_looks.md. Requests of
one user, of one micro-batch or of one incident are alike; the bounds take them for independent.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.rollouts.simulation.simulation_report import wilson
from recsys.evidence.arm_sample import ONE, ArmSample
from recsys.evidence.effect_estimates import NoEstimate, estimate
from recsys.evidence.metric_rules import METRICS, MetricRule
from recsys.stores.evidence.evidence_sums import BUCKET_BASE, LatencyHistogram

ALPHA = 0.05
JUDGED = ("error_rate", "p50_ms", "p99_ms")
_MEDIAN_MS = 20.0


@dataclass(frozen=True, slots=True)
class RequestWorld:
    """How requests of both arms come about; both arms alike."""

    name: str
    cluster: int = 1
    """Requests that share what is drawn for them."""
    stays: bool = False
    """Whether clusters are users, who come back at every look, or pass as batches do."""
    error_rate: float = 0.005
    error_likeness: float = 0.0
    """Correlation of the failures of one cluster, 0-1."""
    shared_latency: float = 0.0
    """Sigma of the logarithm of what a cluster's latencies have in common."""
    own_latency: float = 0.5
    n_looks: int = 30
    n_requests: int = 2_000
    """Per look and arm."""


WORLDS = (
    RequestWorld("independent"),
    RequestWorld("users", 30, True, error_likeness=0.02, shared_latency=0.2),
    RequestWorld("batches of 8", 8, error_likeness=0.1, shared_latency=0.3),
    RequestWorld("batches of 8 fail whole", 8, error_likeness=0.9, shared_latency=0.6),
)


@dataclass(frozen=True, slots=True)
class RequestLooks:
    """Of how many equal canaries each metric was ever seen to be worse."""

    world: RequestWorld
    margin: str
    n_rollouts: int
    n_aborted: dict[str, int]


def look_at_requests(
    world: RequestWorld, rules: Sequence[MetricRule], n_rollouts: int, seed: int
) -> dict[str, int]:
    """How many of the rollouts each rule failed at any of the looks."""
    n_aborted = {rule.name: 0 for rule in rules}
    for rng in np.random.default_rng(seed).spawn(n_rollouts):
        arms = [_growing(world, one) for one in rng.spawn(2)]
        open_rules = list(rules)
        for baseline, canary in zip(*arms, strict=True):
            failed = [rule for rule in open_rules if _is_failed(rule, baseline, canary)]
            open_rules = [rule for rule in open_rules if rule not in failed]
            for rule in failed:
                n_aborted[rule.name] += 1
    return n_aborted


def _growing(world: RequestWorld, rng: np.random.Generator) -> list[ArmSample]:
    """One arm as it stands at each look."""
    n_clusters = max(1, world.n_requests * (world.n_looks if world.stays else 1) // world.cluster)
    samples, errors, requests = [], 0, 0
    buckets: dict[int, int] = {}
    chances, shifts = _drawn(world, n_clusters, rng)
    for _ in range(world.n_looks):
        if world.stays:
            member = rng.integers(n_clusters, size=world.n_requests)
        else:
            chances, shifts = _drawn(world, n_clusters, rng)
            member = np.repeat(np.arange(n_clusters), world.cluster)
        failed = rng.random(len(member)) < chances[member]
        logs = rng.normal(math.log(_MEDIAN_MS), world.own_latency, len(member)) + shifts[member]
        placed = np.floor(logs[~failed] / math.log(BUCKET_BASE)).astype(np.int64)
        for bucket, n in zip(*np.unique(placed, return_counts=True), strict=True):
            buckets[int(bucket)] = buckets.get(int(bucket), 0) + int(n)
        errors, requests = errors + int(failed.sum()), requests + len(member)
        counts = {"requests": float(requests), "errors": float(errors)}
        users = {ONE: np.ones(1)}
        histogram = LatencyHistogram(dict(buckets))
        samples.append(ArmSample("canary", "b", users, None, counts, histogram))
    return samples


def _drawn(
    world: RequestWorld, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each cluster's chance of a failure (beta) and its part of the log latency, [n]."""
    chances = np.full(n, world.error_rate)
    if world.error_likeness:
        weight = 1 / world.error_likeness - 1
        chances = rng.beta(world.error_rate * weight, (1 - world.error_rate) * weight, n)
    return chances, rng.normal(0.0, world.shared_latency, n)


def _is_failed(rule: MetricRule, baseline: ArmSample, canary: ArmSample) -> bool:
    found = estimate(rule, baseline, canary, ALPHA)
    if isinstance(found, NoEstimate):
        return False
    low = float(found.bounds(np.ones(1))[0][0])
    return low > rule.margin


def measure(n_rollouts: int) -> list[RequestLooks]:
    """Every world without an allowed loss, and with the usual ones."""
    usual = [METRICS[name] for name in JUDGED]
    found = []
    for seed, world in enumerate(WORLDS):
        for margin, rules in (
            ("none", [replace(rule, margin=0.0) for rule in usual]),
            ("usual", usual),
        ):
            n_aborted = look_at_requests(world, rules, n_rollouts, seed)
            found.append(RequestLooks(world, margin, n_rollouts, n_aborted))
            print(f"{world.name}, margin {margin}: {n_aborted}", flush=True)
    return found


def table(found: Sequence[RequestLooks]) -> str:
    """False aborts by world and metric."""
    world = found[0].world
    lines = [
        "# Equal canaries judged by requests\n",
        f"Regenerated by `python -m bench.request_looks`: {found[0].n_rollouts} rollouts per row,"
        f" {world.n_looks} looks, {world.n_looks * world.n_requests:,} requests per arm at the end,"
        f" each metric at alpha {ALPHA:.0%}; share ever failed, with 95 % (Wilson).\n",
        "| requests | allowed loss | " + " | ".join(JUDGED) + " |",
        "|---|---|" + "---|" * len(JUDGED),
    ]
    for one in found:
        shares = [wilson(one.n_aborted[name], one.n_rollouts) for name in JUDGED]
        cells = [f"{s.value:.1%} ({s.low:.1%} to {s.high:.1%})" for s in shares]
        lines.append(f"| {one.world.name} | {one.margin} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description="Equal canaries judged by requests.")
    parser.add_argument("--rollouts", type=int, default=200, help="per world and allowed loss")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    chosen = parser.parse_args()
    text = table(measure(chosen.rollouts))
    (chosen.out / "request_looks.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
