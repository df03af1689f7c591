"""The overload bench: what a response is, when requests are due, and which figures miss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.open_loop import LOST, Phase, Seen, complete_status, phase_due_s
from bench.overload import BESIDE_S, Overload, figures_of, recovery_s
from bench.wrk_load import LoadFigures

BEST = LoadFigures(256, requests_per_s=100.0, p50_ms=20.0, p99_ms=50.0, n_requests=500, n_errors=0)


def seen(rows: list[tuple[float, float, int]], n_unsent: int = 0) -> Seen:
    """What a client would have seen: due (s), latency (ms), status."""
    columns = np.asarray(rows, np.float64).reshape(-1, 3)
    return Seen(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.int64), n_unsent)


def steady(from_s: float, to_s: float, rate: float, latency_ms: float, status: int = 200) -> Seen:
    """Equal answers, evenly spaced."""
    due_s = np.arange(from_s, to_s, 1 / rate)
    ones = np.ones(len(due_s))
    return Seen(due_s, latency_ms * ones, (status * ones).astype(np.int64), 0)


def joined(*parts: Seen) -> Seen:
    """Several as one."""
    return Seen(
        np.concatenate([part.due_s for part in parts]),
        np.concatenate([part.latency_ms for part in parts]),
        np.concatenate([part.status for part in parts]),
        0,
    )


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200),
        (b"HTTP/1.1 503 Busy\r\nretry-after: 2\r\ncontent-length: 3\r\nx: y\r\n\r\nabc", 503),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", None),
        (b"HTTP/1.1 200 OK\r\nContent-Len", None),
        (b"", None),
    ],
)
def test_a_response_is_whole_once_its_body_is(received: bytes, status: int | None) -> None:
    """Parts of it are waited for."""
    assert complete_status(received) == status


def test_requests_are_due_by_the_rates_of_their_phases() -> None:
    """Evenly, one phase after the other."""
    due_s = phase_due_s([Phase(10, 1.0), Phase(100, 0.5), Phase(10, 1.0)])
    assert len(due_s) == 10 + 50 + 10
    assert (np.diff(due_s) > 0).all()
    assert ((due_s >= 1.0) & (due_s < 1.5)).sum() == 50


def a_run(
    accepted_per_s: float, accepted_ms: float, refusal_ms: float, slow_after_s: float
) -> Seen:
    """Half of 100 req/s, 10 s of 300 req/s, half again; slow at first after it."""
    over_s = BESIDE_S + 10
    settled_s = over_s + slow_after_s
    return joined(
        steady(0, BESIDE_S, 50, 10),
        steady(BESIDE_S, over_s, accepted_per_s, accepted_ms),
        steady(BESIDE_S, over_s, 300 - accepted_per_s, refusal_ms, 503),
        steady(over_s, settled_s, 50, 500),
        steady(settled_s, over_s + BESIDE_S, 50, 10),
    )


def test_the_figures_of_a_run_that_holds() -> None:
    """Every row is as it must be."""
    found = figures_of(a_run(90, 75, 5, 2), BEST, 10)
    assert found.offered == pytest.approx(3.0, rel=0.01)
    assert found.goodput == pytest.approx(0.9, rel=0.02)
    assert found.p99_ratio == pytest.approx(1.5)
    assert found.recovery_s == pytest.approx(2.0)
    assert (found.n_failed, found.n_refused_before) == (0, 0)
    assert all(holds is not False for _, _, holds in found.rows())


@pytest.mark.parametrize(
    ("run", "row"),
    [
        (a_run(70, 75, 5, 2), "goodput of capacity"),
        (a_run(90, 120, 5, 2), "p99 of accepted"),
        (a_run(90, 75, 60, 2), "p99 of a refusal"),
        (a_run(90, 75, 5, 6), "recovery"),
        (joined(a_run(90, 75, 5, 2), seen([(12.0, 9.0, LOST)])), "failed"),
        (joined(a_run(90, 75, 5, 2), seen([(2.0, 9.0, 503)])), "refused at half load"),
        (replace(a_run(90, 75, 5, 2), n_unsent=1), "offered"),
    ],
)
def test_each_must_is_missed_alone(run: Seen, row: str) -> None:
    """And is named."""
    found: Overload = figures_of(run, BEST, 10)
    assert [what for what, _, holds in found.rows() if holds is False] == [row]


def test_recovery_ends_with_the_last_half_second_that_is_not_usual() -> None:
    """A refusal counts like a slow answer."""
    after = joined(steady(0, 5, 50, 10), seen([(3.2, 1.0, 503)]))
    assert recovery_s(after, 0.0, 5.0, 20.0) == pytest.approx(3.5)
    assert recovery_s(steady(0, 5, 50, 10), 0.0, 5.0, 20.0) == 0.0
