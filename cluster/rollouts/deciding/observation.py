"""What the readiness rows say of a bundle: pure, over rows, the expected fleet and the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.rollouts.deciding.rollout_record import BundleHealth, Health
from recsys.clock_skew import FRESH_MS, Beat, Skew, living_replicas
from recsys.settings import Settings
from recsys.stores.control.control import Readiness

GATEWAY = "gateway"


def expected_replicas(settings: Settings) -> dict[str, int]:
    """Stage to number of replicas that must report, for a placement."""
    serve = settings.serve
    expected = {GATEWAY: serve.gateway_replicas}
    if serve.placement != "fused":
        expected["scorer"] = serve.scorer_replicas
        for shard in range(settings.retrieval.n_shards):
            expected[f"shard-{shard:03d}"] = serve.shard_replicas
        expected["ordering"] = serve.ordering_replicas
    return expected


def living(rows: Sequence[Readiness], now_ms: int) -> list[Readiness]:
    """Rows of replicas that reported lately; a time far ahead is of another clock."""
    return [row for row in rows if abs(now_ms - row.heartbeat_ms) <= FRESH_MS]


def by_our_clock(
    rows: Sequence[Readiness], beats: Mapping[str, Beat], now_ms: int
) -> list[Readiness]:
    """The rows with heartbeats that count: now for who was seen to live, 0 for the others."""
    alive = living_replicas(beats, now_ms)
    return [
        replace(row, heartbeat_ms=now_ms if row.replica_id in alive else 0)
        for row in rows
        if row.heartbeat_ms
    ]


def with_skew(health: BundleHealth, skews: Sequence[Skew]) -> BundleHealth:
    """What is said of a bundle that is waited for, with the replicas whose clocks are off."""
    if not skews or health.health in {Health.READY, Health.FAILED}:
        return health
    names = ", ".join(
        f"{skew.replica_id} {abs(skew.offset_ms) / 1000:.0f} s "
        f"{'ahead' if skew.offset_ms > 0 else 'behind'}"
        for skew in skews
    )
    return replace(health, message=f"{health.message}; clocks are off, set them: {names}")


def gateway_epochs(rows: Sequence[Readiness], now_ms: int) -> list[int]:
    """The plan epoch each living gateway follows."""
    epochs = {
        row.replica_id: row.plan_epoch for row in living(rows, now_ms) if row.stage == GATEWAY
    }
    return sorted(epochs.values())


def followed_epoch(
    rows: Sequence[Readiness], expected: Mapping[str, int], now_ms: int
) -> int | None:
    """The lowest epoch a gateway follows, or None while fewer gateways live than expected."""
    epochs = gateway_epochs(rows, now_ms)
    return epochs[0] if epochs and len(epochs) >= expected[GATEWAY] else None


def bundle_health(
    rows: Sequence[Readiness], expected: Mapping[str, int], bundle_id: str, now_ms: int
) -> BundleHealth:
    """Ready only if every living replica holds it and every expected replica lives.

    One replica that refuses a bundle is enough to call it failed.
    """
    alive = living(rows, now_ms)
    states = {row.replica_id: row for row in alive if row.bundle_id == bundle_id}
    for row in sorted(states.values(), key=lambda row: row.replica_id):
        if row.state == "failed":
            message = f"{row.stage} replica {row.replica_id} refused {bundle_id}: {row.reason}"
            return BundleHealth(Health.FAILED, message)
    missing: list[str] = []
    for stage, count in expected.items():
        replicas = {row.replica_id for row in alive if row.stage == stage}
        ready = {name for name in replicas if name in states and states[name].state == "ready"}
        wanted = max(count, len(replicas))
        if len(ready) < wanted:
            missing.append(f"{stage} ({len(ready)} of {wanted} ready)")
    if not missing:
        return BundleHealth(Health.READY)
    message = f"{bundle_id} on {', '.join(missing)}"
    return BundleHealth(Health.LOADING if alive else Health.UNKNOWN, message)
