"""The failure run in small, on both logs: `make test-events-chaos` does the same at full size."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from brokers.jars import skip_reason
from tests.chaos.chaos_plan import ChaosPlan
from tests.chaos.chaos_run import ChaosRun
from tests.chaos.chaos_verdict import judge, report_lines

pytestmark = pytest.mark.integration


def a_small_plan(backend: str, n_brokers: int, features: str) -> ChaosPlan:
    """Some seconds of events with every kind of process killed at least once."""
    return ChaosPlan(
        seed=4,
        backend=backend,
        n_brokers=n_brokers,
        n_events=6_000,
        produce_s=16.0 if n_brokers else 10.0,
        n_broker_kills=min(1, n_brokers),
        n_archiver_kills=2,
        n_feature_kills=2,
        n_evidence_kills=2,
        n_producer_kills=2,
        features=features,
        cut_s=5.0 if n_brokers else 0.0,
        delivery_timeout_s=1.0,
        n_users=500,
    )


@pytest.mark.parametrize(
    ("backend", "n_brokers", "features"), [("sqlite", 0, "sqlite"), ("kafka", 1, "redis")]
)
def test_nothing_is_lost_or_counted_twice_while_everything_is_killed(
    backend: str, n_brokers: int, features: str, tmp_path: Path
) -> None:
    """Acknowledged events are in the lake once, features and evidence exact, spools empty."""
    reason = skip_reason() if n_brokers else None
    if reason is not None:
        pytest.skip(reason)
    if features == "redis" and shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the path; this test needs a real server")
    plan = a_small_plan(backend, n_brokers, features)
    course: list[str] = []
    with ChaosRun(plan, tmp_path, course.append) as run:
        findings = judge(plan, run.execute())
    assert all(f.holds for f in findings), "\n".join([*course, *report_lines(plan, findings)])
