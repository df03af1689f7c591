"""The slope of a process's memory, and what counts as a service that is whole again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.memory_slope import Sample, slope_mb_per_min
from tests.serving_faults.fault_load import Load, Seen, is_settled


@settings(deadline=None, max_examples=50)
@given(slope=st.floats(-50, 50), start_mb=st.floats(10, 1000), seed=st.integers(0, 100))
def test_the_slope_is_found_beneath_noise(slope: float, start_mb: float, seed: int) -> None:
    """A tenth of a megabyte up and down each second."""
    rng = random.Random(seed)
    samples = [Sample(t, start_mb + slope * t / 60 + rng.uniform(-0.1, 0.1)) for t in range(60)]
    assert slope_mb_per_min(samples) == pytest.approx(slope, abs=0.2)


def test_a_single_step_is_no_leak() -> None:
    """A buffer that is made once and kept."""
    samples = [Sample(t, 100.0 if t < 10 else 140.0) for t in range(60)]
    assert slope_mb_per_min(samples) == 0.0


def seen(status: int = 200, coverage: float = 1.0, *degraded: str) -> Seen:
    """One request."""
    return Seen(0.0, status, "" if status == 200 else "busy", 1.0, coverage, degraded)


def test_a_service_is_whole_again_once_nothing_is_left_out() -> None:
    """Several answers in a row, each with all of the index and no reason to degrade."""
    whole = [seen()] * 3
    assert is_settled([seen(503), *whole], 3)
    for one in (seen(503), seen(200, 0.5), seen(200, 1.0, "scorer: timeout")):
        assert not is_settled([*whole, one], 3)
    assert not is_settled(whole, 4)


def test_what_clients_saw_is_counted_by_reason() -> None:
    """A failed request is no degraded answer."""
    load = Load([seen(), seen(503), seen(0), seen(200, 0.5, "shard-001: timeout", "x: y")])
    assert load.failed == {"503 busy": 1, "0 busy": 1}
    assert load.degraded == {"shard-001: timeout": 1, "x: y": 1}
    assert load.least_coverage == 0.5
