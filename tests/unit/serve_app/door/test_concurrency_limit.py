"""The limit against simulated batches: it refuses nothing it need not, and nothing collapses."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.door.concurrency_limit import BURST_S, CALM_S, ConcurrencyLimit, LimitRules
from tests.batched_queue import BatchedQueue, poisson

RULES = LimitRules.of(floor=32, working=128, ceiling=512, deadline_ms=1_000)
LONG_AGO_S = 4.0
"""When the simulated overloads begin."""
OVER_S = 11.0


def loaded(queue: BatchedQueue, times: float, seed: int = 3) -> BatchedQueue:
    """Half of the capacity, then so many times the capacity, then half again."""
    rng = random.Random(seed)
    half, more = 0.5 * queue.capacity, times * queue.capacity
    before, after = poisson(rng, half, 0, LONG_AGO_S), poisson(rng, half, OVER_S, OVER_S + 4)
    queue.run(chain(before, poisson(rng, more, LONG_AGO_S, OVER_S), after))
    return queue


def queue_of(fixed_s: float, each_s: float, cost_of_refusal: float = 0.05) -> BatchedQueue:
    """A server whose refusals cost a share of what an answer costs in a full batch."""
    queue = BatchedQueue(RULES, fixed_s=fixed_s, each_s=each_s)
    return replace(queue, refusal_s=cost_of_refusal * queue.n_slots / queue.capacity)


SHAPES = pytest.mark.parametrize(
    ("fixed_s", "each_s"), [(0.01, 0.002), (0.001, 0.002), (0.05, 0.001)]
)
"""Batches that cost mostly by request, only by request, and mostly by batch."""


@SHAPES
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_without_overload_nobody_is_refused(fixed_s: float, each_s: float, load: float) -> None:
    """However latency moves with the size of batches."""
    queue = queue_of(fixed_s, each_s)
    queue.run(poisson(random.Random(5), load * queue.capacity, 0, 8))
    assert not queue.refused_at_s
    assert not queue.expired_at_s


@SHAPES
def test_at_three_times_the_capacity_goodput_and_latency_hold(
    fixed_s: float, each_s: float
) -> None:
    """Goodput stays above 80 % of it, the slowest within twice what 256 callers always wait."""
    queue = loaded(queue_of(fixed_s, each_s), 3)
    assert queue.goodput(LONG_AGO_S, OVER_S) >= 0.8 * queue.capacity
    at_peak_s = 256 / queue.capacity
    assert queue.latency_s(0.99, LONG_AGO_S, OVER_S) <= 2 * at_peak_s
    assert not queue.expired_at_s


@SHAPES
def test_after_an_overload_nobody_is_refused_for_long(fixed_s: float, each_s: float) -> None:
    """The must is 5 s; one is enough here."""
    queue = loaded(queue_of(fixed_s, each_s), 3)
    assert queue.refused(LONG_AGO_S, OVER_S) > 1_000
    assert queue.refused(OVER_S + 1, OVER_S + 4) == 0
    before_s = queue.latency_s(0.99, 0, LONG_AGO_S)
    assert queue.latency_s(0.99, OVER_S + 2, OVER_S + 4) <= 2 * before_s


def test_a_fixed_limit_collapses_where_this_one_does_not() -> None:
    """With 512 places all the time, on a slower server, every answer comes after its deadline."""
    fixed = LimitRules.of(floor=512, working=512, ceiling=512, deadline_ms=1_000)
    collapsed, kept = (loaded(BatchedQueue(rules), 3) for rules in (fixed, RULES))
    assert collapsed.goodput(LONG_AGO_S + 3, OVER_S) < 0.1 * collapsed.capacity
    assert kept.goodput(LONG_AGO_S + 3, OVER_S) > 0.7 * kept.capacity


def test_a_server_that_becomes_slow_is_found_out_although_all_its_answers_are_late() -> None:
    """Eight times slower: at first all deadlines pass, then fewer are let in and are answered."""
    queue = queue_of(0.01, 0.002)
    queue.slowness = lambda now_s: 8.0 if now_s > LONG_AGO_S + 2 else 1.0
    rng = random.Random(3)
    queue.run(poisson(rng, 3 * queue.capacity, LONG_AGO_S, LONG_AGO_S + 14))
    assert queue.expired_at_s
    settled_s = LONG_AGO_S + 8
    n_late = sum(at_s > settled_s for at_s in queue.expired_at_s)
    assert queue.goodput(settled_s, LONG_AGO_S + 14) > 0.4 * queue.capacity / 8
    assert n_late < 0.4 * sum(one.arrived_s > settled_s for one in queue.answered)


def test_one_request_at_a_time_is_limited_like_any_server() -> None:
    """Without batches the limit stays near what runs at once."""
    rules = LimitRules.of(floor=2, working=4, ceiling=512, deadline_ms=1_000)
    queue = BatchedQueue(rules, max_batch=1, n_slots=4, fixed_s=0.01, each_s=0.0, refusal_s=0.0005)
    loaded(queue, 3)
    assert queue.goodput(LONG_AGO_S, OVER_S) >= 0.8 * queue.capacity
    assert queue.admission.limit <= 24


def test_a_few_slow_answers_move_nothing() -> None:
    """Three of a hundred are fifty times slower than the rest."""
    plain, spoiled = ConcurrencyLimit(RULES), ConcurrencyLimit(RULES)
    for n in range(4_000):
        plain.answered(100.0, 128, n / 1_000)
        spoiled.answered(5_000.0 if n % 33 == 0 else 100.0, 128, n / 1_000)
    assert spoiled.limit > 0.8 * plain.limit


def test_an_idle_time_leaves_the_limit_alone() -> None:
    """What is not used is neither too high nor too low, and old answers predict nothing."""
    limit = ConcurrencyLimit(RULES)
    for n in range(4_000):
        limit.answered(100.0, 128, n / 1_000)
    limit.answered(3.0, 1, 100.0)
    before = limit.limit
    for n in range(200):
        limit.answered(3.0, 1, 101.0 + n / 2)
    assert limit.limit == before
    assert limit.expected_ms(400, 600.0) == 0.0


def test_a_crowd_after_a_calm_is_let_in_and_one_that_stays_is_not() -> None:
    """Up to the ceiling for the time of a burst; a new one needs a calm."""
    limit = ConcurrencyLimit(RULES)
    assert limit.bound(0, 0.0) == limit.limit
    assert limit.bound(200, 1.0) == RULES.ceiling
    assert limit.bound(300, 1.0 + BURST_S / 2) == RULES.ceiling
    later_s = 1.0 + BURST_S
    for _ in range(20):
        later_s += CALM_S / 2
        assert limit.bound(300, later_s) == limit.limit
    later_s += 2 * CALM_S
    assert limit.bound(300, later_s) == limit.limit, "a stall of the loop is no calm"
    limit.left(0, later_s)
    assert limit.bound(300, later_s + CALM_S / 2) == limit.limit
    limit.left(0, later_s + CALM_S)
    assert limit.bound(300, later_s + 3 * CALM_S) == RULES.ceiling


def test_what_one_more_would_wait_grows_with_who_is_inside() -> None:
    """By Little's law past full batches; below the floor everybody may try."""
    limit = ConcurrencyLimit(RULES)
    for n in range(500):
        limit.answered(100.0, 128, n / 1_000)
    assert limit.expected_ms(RULES.floor - 1, 0.5) == 0.0
    assert limit.expected_ms(100, 0.5) == pytest.approx(100.0)
    assert limit.expected_ms(255, 0.5) == pytest.approx(200.0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.floats(0.0, 1e5),
            st.integers(1, 600),
            st.floats(0.0, 3.0),
        ),
        max_size=300,
    )
)
def test_the_limit_stays_between_floor_and_ceiling(
    told: list[tuple[bool, float, int, float]],
) -> None:
    """Whatever it is told, and the same again for the same."""
    one, other = ConcurrencyLimit(RULES), ConcurrencyLimit(RULES)
    now_s = 0.0
    for in_time, latency_ms, n_seen, pause_s in told:
        now_s += pause_s
        for limit in (one, other):
            (limit.answered if in_time else limit.gave_up)(latency_ms, n_seen, now_s)
        assert RULES.floor <= one.limit <= RULES.ceiling
        assert one.bound(n_seen, now_s) == other.bound(n_seen, now_s)
        assert one.expected_ms(n_seen, now_s) == other.expected_ms(n_seen, now_s) >= 0.0


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 1_000), st.integers(1, 1_000), st.integers(1, 1_000))
def test_rules_are_in_order(floor: int, working: int, ceiling: int) -> None:
    """The ceiling is the operator's and wins."""
    rules = LimitRules.of(floor, working, ceiling, 1_000)
    assert 1 <= rules.floor <= rules.working <= rules.ceiling == ceiling
