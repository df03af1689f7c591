"""When a late call is made twice, for any latencies."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.links.hedge_rule import (
    MAX_RULES,
    MIN_DELAY_S,
    N_KNOWN,
    SHARE,
    HedgeRule,
    HedgeRules,
)


@settings(deadline=None, max_examples=50)
@given(
    latencies_s=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=500),
    greed=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
def test_at_most_a_share_of_the_calls_is_made_twice(
    latencies_s: list[float], greed: float, seed: int
) -> None:
    """Whoever takes every chance stays within it at every moment."""
    rule, rng, n_twice = HedgeRule(), random.Random(seed), 0
    for n, latency_s in enumerate(latencies_s, start=1):
        delay_s = rule.delay_s()
        if delay_s is not None and rng.random() < greed:
            assert n > N_KNOWN
            rule.spend()
            n_twice += 1
        assert n_twice <= SHARE * n + 1e-9
        rule.answered(latency_s)


@settings(deadline=None, max_examples=50)
@given(latencies_s=st.lists(st.floats(0.0, 1.0), min_size=N_KNOWN, max_size=N_KNOWN))
def test_a_call_is_late_after_nearly_all_recent_ones(latencies_s: list[float]) -> None:
    """About one in twenty took longer than the delay, however they are spread."""
    rule = HedgeRule()
    for latency_s in latencies_s:
        rule.delay_s()
        rule.answered(latency_s)
    delay_s = rule.delay_s()
    assert delay_s is not None
    assert delay_s >= MIN_DELAY_S
    assert sum(latency_s > delay_s for latency_s in latencies_s) <= 0.06 * N_KNOWN


def test_while_little_is_known_no_call_is_late() -> None:
    """The first calls of a new bundle are not made twice for being slower than nothing."""
    rule = HedgeRule()
    for _ in range(N_KNOWN - 1):
        rule.answered(0.01)
        assert rule.delay_s() is None


def test_the_rule_of_a_bundle_is_kept_and_that_of_one_long_gone_is_not() -> None:
    """Bundles come and go for years."""
    rules = HedgeRules()
    first = rules.of("score", "b0")
    for n in range(1, MAX_RULES):
        rules.of("score", f"b{n}")
    assert rules.of("score", "b0") is first
    for n in range(MAX_RULES):
        rules.of("score", f"later{n}")
    assert rules.of("score", "b0") is not first
