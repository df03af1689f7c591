"""From measured points to sizes that do not fit here: plans, and simulations that check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.scale.capacity import Capacity, Policy, StageCost, plan, search_us
from bench.scale.costs import GATEWAY, ORDERING, SCORER, SHARD
from bench.scale.queues import Station, simulate

SIZES = (1_000_000, 10_000_000, 100_000_000)
RATES = (1_000.0, 10_000.0, 100_000.0)
P99_BAR_MS = 100.0
N_SIMULATED = 10_000
"""Requests of a simulation, at least."""
SIMULATED_S = 0.4
"""Time of a simulation, at least."""
MOST_SEARCHED = 10_000.0
"""Up to this rate fewer replicas are tried; beyond it one simulation takes minutes."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """One size and rate: what the capacity model says, and what the simulation says of it."""

    capacity: Capacity
    p50_ms: float
    p99_ms: float
    least_scale: float | None
    """The smallest share of the planned replicas with which p99 is within the bar, in tenths;
    None where it was not searched."""


def planned(
    costs: Mapping[str, StageCost],
    shard_sizes_us: Sequence[tuple[int, float]],
    n_items: int,
    requests_per_s: float,
    policy: Policy,
) -> Planned:
    """Plan a size and rate, and simulate it."""
    stages = [costs[name] for name in (GATEWAY, SCORER, ORDERING)]
    shard = costs[SHARD]
    found = plan(stages, shard, shard_sizes_us, n_items, requests_per_s, policy)
    each_us = search_us(-(-n_items // found.n_shards), shard_sizes_us)
    layout = _stations(costs, found, replace(shard, each_us=each_us), policy)
    p50_ms, p99_ms = _simulated(layout, requests_per_s)
    least = _least_scale(layout, requests_per_s) if requests_per_s <= MOST_SEARCHED else None
    return Planned(found, p50_ms, p99_ms, least)


def _least_scale(layout: Sequence[Station], requests_per_s: float) -> float:
    least = 1.0
    for tenths in range(9, 0, -1):
        fewer = [
            replace(one, n_replicas=max(1, round(one.n_replicas * tenths / 10))) for one in layout
        ]
        if _overloaded(fewer, requests_per_s):
            break
        if _simulated(fewer, requests_per_s)[1] > P99_BAR_MS:
            break
        least = tenths / 10
    return least


def one_process(costs: Mapping[str, StageCost], max_batch: int) -> Station:
    """All stages in one process, as a single station."""
    fixed_us = sum(cost.fixed_us for cost in costs.values())
    each_us = sum(cost.each_us for cost in costs.values())
    return Station("process", fixed_us / 1e6, each_us / 1e6, 1, max_batch=max_batch)


def accounted_rate(costs: Mapping[str, StageCost], max_batch: int) -> float:
    """Requests per second of one process that only waits for the processor, in full batches."""
    process = one_process(costs, max_batch)
    return max_batch / (process.fixed_s + process.each_s * max_batch)


def predicted(station: Station, requests_per_s: float) -> tuple[float, float]:
    """p50 and p99 in ms of one station at a rate."""
    return _simulated([station], requests_per_s)


def _stations(
    costs: Mapping[str, StageCost], found: Capacity, shard: StageCost, policy: Policy
) -> list[Station]:
    replicas = {one.stage: one.n_replicas for one in found.deployments}
    laid_out = [
        (costs[GATEWAY], replicas[GATEWAY], 1),
        (costs[SCORER], replicas[SCORER], 1),
        (shard, replicas[f"{SHARD} 0"], found.n_shards),
        (costs[ORDERING], replicas[ORDERING], 1),
    ]
    return [
        Station(
            cost.stage,
            cost.fixed_us / 1e6,
            cost.each_us / 1e6,
            n_replicas,
            n_parts,
            policy.max_batch,
        )
        for cost, n_replicas, n_parts in laid_out
    ]


def _overloaded(stations: Sequence[Station], requests_per_s: float) -> bool:
    return any(
        requests_per_s * (one.fixed_s / one.max_batch + one.each_s) >= one.n_replicas
        for one in stations
    )


def _simulated(stations: Sequence[Station], requests_per_s: float) -> tuple[float, float]:
    n_requests = max(N_SIMULATED, int(SIMULATED_S * requests_per_s))
    found = simulate(stations, requests_per_s, n_requests, SEED)
    p50_s, p99_s = np.percentile(found.latency_s, (50, 99))
    return float(p50_s) * 1000, float(p99_s) * 1000
