"""The measured cost account as what capacity and queues are computed from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.path_cost import PathCost
from bench.scale.capacity import StageCost

GATEWAY, SCORER, SHARD, ORDERING = "gateway", "scorer", "shard", "ordering"

_STAGE_OF_PART = {
    "encode": SCORER,
    "score": SCORER,
    "score: successors": SCORER,
    "index searched": SHARD,
    "slates ordered": ORDERING,
}
"""Where a part of the account is done; all others are the gateway's."""
_PLACES = {"Gateway": GATEWAY, "Scorer": SCORER, "Ordering": ORDERING}
"""Deployments of the account of the running graph."""
_TRANSPORT = ("http:", "links:", "event loop")
"""Its parts that the path alone does not have, by how they begin."""
_DIM = 64
_FLOAT_BYTES = 4

ITEM_BYTES = {
    # An id, a title's words, codes of category and creator, times, and the arrays that sort them.
    GATEWAY: 250.0,
    SCORER: 1.0 * _DIM * _FLOAT_BYTES,
    ORDERING: 1.0 * _DIM * _FLOAT_BYTES,
}
"""Memory of an item in one bundle, by stage: its vector where a stage has all of them. The shard's
is measured."""


def stage_costs(
    alone: PathCost, together: PathCost, transport_us: Mapping[str, float]
) -> dict[str, StageCost]:
    """A fixed and a growing part for every stage, from the account at two numbers of callers.

    A lone request costs F + E; one of a batch of n costs F / n + E.

    Args:
        alone: one caller, so batches of one.
        together: many callers, whose requests go in batches of as many.
        transport_us: what HTTP and links cost a request on the running graph, by stage.
    """
    n = together.callers
    one, many = _by_stage(alone), _by_stage(together)
    costs = {}
    for stage, alone_us in one.items():
        each_us = max(0.0, (n * many[stage] - alone_us) / (n - 1))
        fixed_us = max(0.0, alone_us - each_us)
        each_us += transport_us.get(stage, 0.0)
        costs[stage] = StageCost(stage, fixed_us, each_us, ITEM_BYTES.get(stage, 0.0))
    return costs


def slowed(costs: Mapping[str, StageCost], factor: float) -> dict[str, StageCost]:
    """The same with all times longer: threads wait for each other and the log beside their work."""
    return {
        name: replace(cost, fixed_us=cost.fixed_us * factor, each_us=cost.each_us * factor)
        for name, cost in costs.items()
    }


def transport_of(rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Microseconds per request of HTTP and links by stage, of the rows of `cost_profile.json`."""
    spent: dict[str, float] = {}
    for row in rows:
        stage = _PLACES.get(str(row["place"]))
        if stage is not None and str(row["part"]).startswith(_TRANSPORT):
            spent[stage] = spent.get(stage, 0.0) + float(str(row["cpu_us"]))
    return spent


def _by_stage(cost: PathCost) -> dict[str, float]:
    spent = dict.fromkeys((GATEWAY, SCORER, SHARD, ORDERING), 0.0)
    for part, us in cost.parts_us.items():
        spent[_STAGE_OF_PART.get(part, GATEWAY)] += us
    return spent
