"""How many cores, how much memory and how many replicas a load needs. Pure.

Replicas answer in micro-batches that form while the one before is answered (`MicroBatcher`), so a
batch of b requests takes F + E b: a part for the batch and a part for each request. A replica can
answer B / (F + E B) requests a second at most, B the largest batch (a bulk-service queue; Neuts,
A General Class of Bulk Queues with Poisson Input, 1967). Planned is a share of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np

RESIDENT = 3
"""Bundles that a replica holds during a rollout: stable, the canary and the way back."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage costs, in microseconds of processor time and in memory."""

    stage: str
    fixed_us: float
    """Of a batch, whatever is in it."""
    each_us: float
    """Of every request in it."""
    item_bytes: float = 0.0
    """Of memory for every item that a replica holds, per bundle."""
    base_mb: float = 250.0
    """Of a replica without any items: interpreter, libraries, Ray."""

    def batch_us(self, n_requests: float) -> float:
        """Processor time of a batch."""
        return self.fixed_us + self.each_us * n_requests


@dataclass(frozen=True, slots=True)
class Policy:
    """What is planned for."""

    utilisation: float = 0.6
    """Of a replica's greatest rate; the rest is for bursts and for what a fault leaves over."""
    max_batch: int = 64
    shard_mb: float = 8_192.0
    """Memory that a shard's replica may take."""
    spare: int = 1
    """Replicas beyond the need, in every deployment."""
    node_cores: int = 16


@dataclass(frozen=True, slots=True)
class Deployment:
    """What one deployment needs; every replica is planned with a core of its own."""

    stage: str
    n_replicas: int
    replica_mb: float
    utilisation: float
    """Of the greatest rate, with all replicas there."""
    utilisation_after_fault: float
    """Likewise with one replica lost; above 1 requests are refused."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a size and a rate need."""

    n_items: int
    requests_per_s: float
    n_shards: int
    deployments: tuple[Deployment, ...]

    @property
    def cores(self) -> int:
        """One per replica."""
        return sum(deployment.n_replicas for deployment in self.deployments)

    @property
    def memory_gb(self) -> float:
        """Of all replicas."""
        return sum(one.n_replicas * one.replica_mb for one in self.deployments) / 1024

    def goodput_after_node_loss(self, node_cores: int) -> float:
        """The share of requests that is still answered when a node is gone, 0-1.

        Replicas are spread evenly, so every deployment loses the same share of them, at least one.
        """
        worst = 1.0
        for one in self.deployments:
            n_lost = min(one.n_replicas, ceil(one.n_replicas * min(1.0, node_cores / self.cores)))
            left = (one.n_replicas - n_lost) / one.n_replicas
            worst = min(worst, left / one.utilisation if one.utilisation else 1.0)
        return worst


def plan(
    stages: Sequence[StageCost],
    shard: StageCost,
    shard_sizes_us: Sequence[tuple[int, float]],
    n_items: int,
    requests_per_s: float,
    policy: Policy,
) -> Capacity:
    """What is needed for so many items and requests.

    Args:
        stages: every deployment but the shards.
        shard: its memory; its time per request follows from `shard_sizes_us`.
        shard_sizes_us: items of a shard and microseconds of one search, ascending.
    """
    n_shards = shards_for(n_items, shard, policy)
    size = ceil(n_items / n_shards)
    searching = StageCost(
        shard.stage,
        shard.fixed_us,
        search_us(size, shard_sizes_us),
        shard.item_bytes,
        shard.base_mb,
    )
    deployments = [_deployment(stage, n_items, requests_per_s, policy) for stage in stages]
    one_shard = _deployment(searching, size, requests_per_s, policy)
    deployments += [
        Deployment(
            f"{shard.stage} {number}",
            one_shard.n_replicas,
            one_shard.replica_mb,
            one_shard.utilisation,
            one_shard.utilisation_after_fault,
        )
        for number in range(n_shards)
    ]
    return Capacity(n_items, requests_per_s, n_shards, tuple(deployments))


def shards_for(n_items: int, shard: StageCost, policy: Policy) -> int:
    """The fewest shards whose replicas fit in the memory they may take."""
    room_mb = policy.shard_mb - shard.base_mb
    needed_mb = n_items * shard.item_bytes * RESIDENT / 2**20
    return max(1, ceil(needed_mb / room_mb))


def search_us(size: int, sizes_us: Sequence[tuple[int, float]]) -> float:
    """Microseconds of one search in a shard of this size.

    Between measured sizes it is drawn straight in log-log; beyond them the slope of the last two
    goes on, and below the first one that one's value holds.
    """
    sizes = [log(n) for n, _ in sizes_us]
    times = [log(us) for _, us in sizes_us]
    at = log(max(size, 1))
    if at <= sizes[-1] or len(sizes) == 1:
        return float(np.exp(np.interp(at, sizes, times)))
    slope = (times[-1] - times[-2]) / (sizes[-1] - sizes[-2])
    return float(np.exp(times[-1] + slope * (at - sizes[-1])))


def greatest_rate(stage: StageCost, max_batch: int) -> float:
    """Requests per second that one replica answers at most."""
    return max_batch / stage.batch_us(max_batch) * 1e6


def _deployment(
    stage: StageCost, n_items: int, requests_per_s: float, policy: Policy
) -> Deployment:
    rate = greatest_rate(stage, policy.max_batch)
    n_replicas = max(1, ceil(requests_per_s / (policy.utilisation * rate))) + policy.spare
    replica_mb = stage.base_mb + n_items * stage.item_bytes * RESIDENT / 2**20
    used = requests_per_s / rate
    after = used / (n_replicas - 1) if n_replicas > 1 else float("inf")
    return Deployment(stage.stage, n_replicas, replica_mb, used / n_replicas, after)
