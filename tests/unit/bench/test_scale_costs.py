"""What becomes of the measured account, and the report of it all."""

from __future__ import annotations

from typing import Any

import pytest

from bench.path_cost import PathCost
from bench.scale.capacity import Policy, StageCost
from bench.scale.costs import GATEWAY, ORDERING, SCORER, SHARD, slowed, stage_costs, transport_of
from bench.scale.model import accounted_rate, one_process, planned, predicted
from bench.scale.report import missed, page, pictures

ALONE = PathCost(1, 6_000.0, {"encode": 1_700.0, "score": 1_600.0, "pipeline": 2_000.0}, 800, 0)
TOGETHER = PathCost(64, 900.0, {"encode": 200.0, "score": 360.0, "pipeline": 51.0}, 3_200, 0)
SIZES = ((50_000, 150.0), (2_500_000, 900.0))
POINT: dict[str, Any] = {
    "items": 10_000_000, "shards": 4, "build_s": 600.0, "build_peak_mb": 4_000.0,
    "tuned_recall": 0.97, "recall": 0.975, "p50_ms": 5.0, "p99_ms": 12.0, "n_searched": 1_000,
    "shard_cpu_us": 900.0, "index_mb": 3_000.0, "serving_peak_mb": 3_500.0,
}  # fmt: skip


def test_a_batch_has_a_fixed_cost_and_every_request_its_own() -> None:
    """F + E is the lone request's, F / 64 + E one's of 64."""
    costs = stage_costs(ALONE, TOGETHER, {SCORER: 100.0})
    scorer, gateway = costs[SCORER], costs[GATEWAY]
    assert scorer.batch_us(1) == pytest.approx(3_300.0 + 100.0)
    assert scorer.batch_us(64) / 64 == pytest.approx(560.0 + 100.0)
    assert gateway.batch_us(1) == pytest.approx(2_000.0)
    assert gateway.batch_us(64) / 64 == pytest.approx(51.0)
    assert costs[SHARD].batch_us(64) == costs[ORDERING].batch_us(64) == 0.0


def test_transport_is_what_the_path_alone_does_not_have() -> None:
    """HTTP and links of the graph's own deployments; numerics and other processes are not."""
    rows = [
        {"place": "Gateway", "part": "http: inside Serve", "cpu_us": 100.0},
        {"place": "Gateway", "part": "links: frames packed", "cpu_us": 20.0},
        {"place": "Scorer", "part": "links: sent and received", "cpu_us": 7.0},
        {"place": "Scorer", "part": "score", "cpu_us": 300.0},
        {"place": "http: HAProxy", "part": "beside the requests", "cpu_us": 90.0},
    ]
    assert transport_of(rows) == {GATEWAY: 120.0, SCORER: 7.0}


def test_times_by_the_clock_are_longer_than_the_account() -> None:
    """Then fewer requests are answered, by the same factor; memory stays."""
    costs = stage_costs(ALONE, TOGETHER, {})
    longer = slowed(costs, 1.25)
    assert accounted_rate(longer, 64) == pytest.approx(accounted_rate(costs, 64) / 1.25)
    assert longer[SCORER].item_bytes == costs[SCORER].item_bytes


def test_the_simulation_of_one_process_knows_all_its_costs() -> None:
    """Far below its capacity a request takes what a lone one costs."""
    p50_ms, p99_ms = predicted(one_process(stage_costs(ALONE, TOGETHER, {}), 64), 1.0)
    assert p50_ms == pytest.approx(5.3, rel=1e-3) and p99_ms < 3 * p50_ms


def plans() -> list[Any]:
    """A plan as the table has it."""
    costs = stage_costs(ALONE, TOGETHER, {}) | {SHARD: StageCost(SHARD, 0.0, 0.0, 314.0)}
    costs[ORDERING] = StageCost(ORDERING, 1_000.0, 90.0, 256.0)
    return [planned(costs, SIZES, 10_000_000, 1_000.0, Policy())]


def test_a_plan_is_simulated_with_its_own_replicas() -> None:
    """Its p99 is within the bar, and so it is with the share of replicas that is said to do."""
    (one,) = plans()
    assert one.capacity.n_shards == 2 and 0 < one.p50_ms < one.p99_ms < 100
    assert one.least_scale is not None and 0.1 <= one.least_scale <= 1.0


def test_the_report_holds_what_was_measured_and_says_what_was_not() -> None:
    """And marks what is modelled."""
    document = {
        "machine": {"cores": 2}, "index": [POINT], "rate": 50.0,
        "recall_target": 0.95, "k": 200,
        "costs": {"scorer": {"fixed_us": 2_740.0, "each_us": 560.0, "item_bytes": 256.0}},
        "transport_us": {}, "greatest_rate": 690.0, "slowness": 1.2,
        "checks": [{
            "requests_per_s": 200.0, "p50_ms": 9.0, "p99_ms": 30.0, "n_requests": 4_000.0,
            "n_failed": 0.0, "simulated_p50_ms": 8.0, "simulated_p99_ms": 22.0,
        }],
    }  # fmt: skip
    text = page(document, plans(), Policy())
    assert "| 10,000,000 | 4 | 600 |" in text and "0.975" in text
    assert "## Modelled: what a load needs" in text and "HTTP and links are not in it" in text
    assert "| 200 | 9.0 ms | 8.0 ms | 30.0 ms | 22.0 ms | 0 of 4,000 |" in text
    assert set(pictures(document)) == {"scale-memory.svg", "scale-search.svg"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"recall": 0.89}, ["recall@100 is 0.890"]),
        ({"p99_ms": 21.0, "serving_peak_mb": 13_000.0}, ["p99_ms is 21.0", "serving_peak_mb is"]),
    ],
)
def test_bars_are_those_of_the_largest_index(changed: dict[str, float], said: list[str]) -> None:
    """A smaller one may be anything."""
    small = {**POINT, "items": 1_000, "recall": 0.1}
    faults = missed([small, {**POINT, **changed}])
    assert len(faults) == len(said)
    assert all(part in fault for part, fault in zip(said, faults, strict=True))
