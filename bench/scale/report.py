"""What was measured and what was modelled of scale, as tables and pictures. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.scale.capacity import RESIDENT, Policy
from bench.scale.model import P99_BAR_MS, Planned
from bench.svg_curves import svg_curves

BARS = {"recall": 0.9, "p99_ms": 20.0, "serving_peak_mb": 12 * 1024.0}
"""Of the largest index: at least the recall, at most the others."""


def missed(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each bar that the largest index misses."""
    largest = max(points, key=lambda point: int(point["items"]))
    faults = []
    if largest["recall"] < BARS["recall"]:
        faults.append(f"recall@100 is {largest['recall']:.3f}, expected at least {BARS['recall']}")
    for name in ("p99_ms", "serving_peak_mb"):
        if largest[name] > BARS[name]:
            faults.append(f"{name} is {largest[name]:,.1f}, expected at most {BARS[name]:,.0f}")
    return [f"{int(largest['items']):,} items: {fault}" for fault in faults]


def page(document: Mapping[str, Any], plans: Sequence[Planned], policy: Policy) -> str:
    """The whole report as Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in document["machine"].items())
    parts = [
        "# Scale",
        "Made by `python -m bench.scale`; how to read it: [capacity](../docs/capacity.md). "
        "**Measured** is what ran on this machine, **modelled** what follows from it.",
        f"Machine: {facts}.",
        "## Measured: the index",
        f"Vectors of width 64 in clusters (`bench/scale/item_vectors.py`), shards searched side "
        f"by side in one process for {document['k']} candidates, one query at a time, "
        f"{document['rate']:g} Poisson arrivals a second. Tuned to `retrieval.recall_target` "
        f"{document['recall_target']:g}. Recall is of queries that the index was "
        "not tuned on.",
        _index_table(document["index"]),
        "## Measured: what a request costs",
        _cost_note(document),
        _cost_table(document["costs"]),
        "## Measured beside simulated: all stages in one process",
        f"It answers {document['greatest_rate']:,.0f} requests a second at most, by the clock "
        f"{document['slowness']:.2f} times the accounted processor time; the costs above are "
        "scaled by that. The same costs in the simulation of queues, for 30 % and 60 % of the "
        "greatest rate as Poisson arrivals:",
        _check_table(document["checks"]),
        "## Modelled: what a load needs",
        f"At most {policy.utilisation:.0%} of a replica's greatest rate, micro-batches of up to "
        f"{policy.max_batch}, {RESIDENT} bundles resident, shards of at most "
        f"{policy.shard_mb / 1024:g} GB, {policy.spare} spare replica in every deployment, one "
        "core a replica. The last columns are the simulation of the same replicas: latency "
        f"without network, and the share of them with which p99 is still within {P99_BAR_MS:g} ms.",
        _plan_table(plans),
        "### The price of a fault",
        f"Use of the busiest deployment when one of its replicas is lost (above 1 it refuses), "
        f"and what is still answered when a node of {policy.node_cores} cores is.",
        _fault_table(plans, policy),
        "![memory of the index](scale-memory.svg)",
        "![time of a search](scale-search.svg)",
    ]
    return "\n\n".join(parts) + "\n"


def pictures(document: Mapping[str, Any]) -> dict[str, str]:
    """Curves over the size of the index, by file name."""
    points = document["index"]
    millions = [point["items"] / 1e6 for point in points]
    memory = [point["index_mb"] / 1024 for point in points]
    p99 = [point["p99_ms"] for point in points]
    return {
        "scale-memory.svg": svg_curves(
            "Memory of the index",
            {"measured": list(zip(millions, memory, strict=True))},
            "million items",
            "GB",
        ),
        "scale-search.svg": svg_curves(
            "p99 of a search, measured",
            {"all shards": list(zip(millions, p99, strict=True))},
            "million items",
            "ms",
            level=BARS["p99_ms"],
        ),
    }


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _index_table(points: Sequence[Mapping[str, Any]]) -> str:
    names = ("items", "shards", "build s", "build peak GB", "index GB", "serving peak GB")
    return _table(
        (*names, "recall@100", "p50 ms", "p99 ms", "us a search and shard"),
        [
            (
                f"{point['items']:,}",
                str(point["shards"]),
                f"{point['build_s']:,.0f}",
                f"{point['build_peak_mb'] / 1024:.2f}",
                f"{point['index_mb'] / 1024:.2f}",
                f"{point['serving_peak_mb'] / 1024:.2f}",
                f"{point['recall']:.3f}",
                f"{point['p50_ms']:.1f}",
                f"{point['p99_ms']:.1f}",
                f"{point['shard_cpu_us']:,.0f}",
            )
            for point in points
        ],
    )


def _cost_note(document: Mapping[str, Any]) -> str:
    where = "`python -m bench.path_cost`, one caller and 64"
    if document["transport_us"]:
        return f"{where}; HTTP and links from `bench/cost_profile.json`."
    return f"{where}. **HTTP and links are not in it** (`make bench-profile` measures them)."


def _cost_table(costs: Mapping[str, Mapping[str, float]]) -> str:
    return _table(
        ("stage", "us a batch", "us a request", "bytes an item and bundle"),
        [
            (name, f"{c['fixed_us']:,.0f}", f"{c['each_us']:,.0f}", f"{c['item_bytes']:,.0f}")
            for name, c in costs.items()
        ],
    )


def _check_table(checks: Sequence[Mapping[str, float]]) -> str:
    return _table(
        ("requests/s", "p50 measured", "p50 simulated", "p99 measured", "p99 simulated", "failed"),
        [
            (
                f"{one['requests_per_s']:,.0f}",
                f"{one['p50_ms']:.1f} ms",
                f"{one['simulated_p50_ms']:.1f} ms",
                f"{one['p99_ms']:.1f} ms",
                f"{one['simulated_p99_ms']:.1f} ms",
                f"{one['n_failed']:.0f} of {one['n_requests']:,.0f}",
            )
            for one in checks
        ],
    )


def _plan_table(plans: Sequence[Planned]) -> str:
    rows = []
    for one in plans:
        of = {deployment.stage: deployment.n_replicas for deployment in one.capacity.deployments}
        least = "not searched" if one.least_scale is None else f"{one.least_scale:.0%}"
        rows.append(
            (
                f"{one.capacity.n_items / 1e6:g} M",
                f"{one.capacity.requests_per_s:,.0f}",
                str(of["gateway"]),
                str(of["scorer"]),
                f"{one.capacity.n_shards} x {of['shard 0']}",
                str(of["ordering"]),
                f"{one.capacity.cores:,}",
                f"{one.capacity.memory_gb:,.0f}",
                f"{one.p50_ms:.1f}",
                f"{one.p99_ms:.1f}",
                least,
            )
        )
    names = ("items", "requests/s", "gateways", "scorers", "shards", "orderings")
    return _table((*names, "cores", "memory GB", "p50 ms", "p99 ms", "enough"), rows)


def _fault_table(plans: Sequence[Planned], policy: Policy) -> str:
    rows = []
    for one in plans:
        worst = max(one.capacity.deployments, key=lambda each: each.utilisation_after_fault)
        left = one.capacity.goodput_after_node_loss(policy.node_cores)
        rows.append(
            (
                f"{one.capacity.n_items / 1e6:g} M",
                f"{one.capacity.requests_per_s:,.0f}",
                f"{worst.utilisation_after_fault:.2f} ({worst.stage})",
                f"{left:.0%}",
            )
        )
    return _table(("items", "requests/s", "use after a replica", "answered after a node"), rows)
