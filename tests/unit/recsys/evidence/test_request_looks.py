"""Equal canaries whose requests are alike within clusters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.request_looks import (
    JUDGED,
    WORLDS,
    RequestLooks,
    RequestWorld,
    look_at_requests,
    table,
)
from recsys.evidence.metric_rules import METRICS

RULES = [METRICS[name] for name in JUDGED]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: str(world.name))
def test_an_equal_canary_is_not_aborted_with_the_usual_allowed_loss(world: RequestWorld) -> None:
    """In no world, at the size of a test."""
    small = replace(world, n_looks=3, n_requests=400)
    assert look_at_requests(small, RULES, 2, 1) == dict.fromkeys(JUDGED, 0)


def test_the_table_says_what_was_counted() -> None:
    """With the interval of a share of few rollouts."""
    found = RequestLooks(WORLDS[0], "none", 4, {"error_rate": 1, "p50_ms": 0, "p99_ms": 4})
    assert "| independent | none | 25.0% (4.6% to 69.9%) | 0.0%" in table([found])
