"""What is planned for a load, by hand."""

from __future__ import annotations

import pytest

from bench.scale.capacity import (
    RESIDENT,
    Policy,
    StageCost,
    greatest_rate,
    plan,
    search_us,
    shards_for,
)

SHARD = StageCost("shard", 100.0, 0.0, item_bytes=300.0, base_mb=200.0)
SIZES = ((100_000, 100.0), (1_000_000, 200.0))
GATEWAY = StageCost("gateway", 1_000.0, 500.0, base_mb=300.0)


def test_a_replica_answers_so_many_requests_a_second() -> None:
    """64 requests in 1 + 64 * 0.5 = 33 ms."""
    assert greatest_rate(GATEWAY, 64) == pytest.approx(64 / 0.033)


def test_replicas_are_for_the_planned_share_and_one_beyond_it() -> None:
    """1,939 a second per replica, of which 60 %: 10,000 need 9, and the spare makes 10."""
    found = plan([GATEWAY], SHARD, SIZES, 100_000, 10_000.0, Policy())
    gateway, shard = found.deployments
    assert (gateway.stage, gateway.n_replicas) == ("gateway", 10)
    assert gateway.utilisation == pytest.approx(10_000 / (10 * 64 / 0.033))
    assert gateway.utilisation_after_fault == pytest.approx(gateway.utilisation * 10 / 9)
    assert gateway.utilisation_after_fault <= 0.6
    # A search of 100 us and a 64th of 100 us: 9,846 a second at most.
    assert (shard.stage, shard.n_replicas) == ("shard 0", 3)
    assert found.cores == 13
    item_mb = 100_000 * 300 * RESIDENT / 2**20
    assert found.memory_gb == pytest.approx((10 * 300 + 3 * (200 + item_mb)) / 1024)


def test_shards_are_as_few_as_memory_allows() -> None:
    """300 bytes an item, three bundles: 8,378,108 items fill what 8,192 - 200 MB leave."""
    n_most = int((8_192 - 200) * 2**20 / (300 * RESIDENT))
    assert shards_for(1, SHARD, Policy()) == 1
    assert shards_for(n_most, SHARD, Policy()) == 1
    assert shards_for(n_most + 1, SHARD, Policy()) == 2
    found = plan([], SHARD, SIZES, 100_000_000, 10.0, Policy())
    assert found.n_shards == 11 == len(found.deployments)
    assert all(one.replica_mb <= 8_192 for one in found.deployments)


def test_a_search_costs_what_was_measured_and_goes_on_as_the_last_slope() -> None:
    """Twice the time for ten times the items."""
    assert search_us(10, SIZES) == pytest.approx(100.0)
    assert search_us(1_000_000, SIZES) == pytest.approx(200.0)
    assert search_us(316_228, SIZES) == pytest.approx(2**0.5 * 100, rel=1e-4)
    assert search_us(100_000_000, SIZES) == pytest.approx(800.0)
    assert search_us(5, SIZES[:1]) == search_us(10**9, SIZES[:1]) == pytest.approx(100.0)


def test_a_lost_node_takes_its_share_of_every_deployment() -> None:
    """13 cores on nodes of 4: 4 of 10 gateways and 1 of 3 shards' replicas are gone."""
    found = plan([GATEWAY], SHARD, SIZES, 100_000, 10_000.0, Policy())
    gateway, shard = found.deployments
    expected = min(1.0, 0.6 / gateway.utilisation, 2 / 3 / shard.utilisation)
    assert found.goodput_after_node_loss(4) == pytest.approx(expected)
    assert found.goodput_after_node_loss(1_000) == 0.0
