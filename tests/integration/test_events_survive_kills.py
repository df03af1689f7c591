"""The failure run in small, on both logs: `make test-events-chaos` does the same at full size."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.jars import skip_reason
from tests.chaos.chaos_plan import ChaosPlan
from tests.chaos.chaos_run import ChaosRun
from tests.chaos.chaos_verdict import judge, report_lines

pytestmark = pytest.mark.integration


def a_small_plan(backend: str, n_brokers: int) -> ChaosPlan:
    """Some seconds of events with every kind of process killed at least once."""
    return ChaosPlan(
        seed=4,
        backend=backend,
        n_brokers=n_brokers,
        n_events=6_000,
        produce_s=16.0,
        n_broker_kills=min(1, n_brokers),
        n_archiver_kills=2,
        n_feature_kills=2,
        n_producer_kills=2,
        cut_s=5.0 if n_brokers else 0.0,
        delivery_timeout_s=1.0,
        n_users=500,
    )


@pytest.mark.parametrize(("backend", "n_brokers"), [("sqlite", 0), ("kafka", 1)])
def test_nothing_is_lost_or_counted_twice_while_everything_is_killed(
    backend: str, n_brokers: int, tmp_path: Path
) -> None:
    """Acknowledged events are in the lake once, features are exact, spools end up empty."""
    reason = skip_reason() if n_brokers else None
    if reason is not None:
        pytest.skip(reason)
    plan = a_small_plan(backend, n_brokers)
    course: list[str] = []
    with ChaosRun(plan, tmp_path, course.append) as run:
        findings = judge(plan, run.execute())
    assert all(f.holds for f in findings), "\n".join([*course, *report_lines(plan, findings)])
