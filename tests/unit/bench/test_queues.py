"""The simulation of queues against what queueing theory says of them."""

from __future__ import annotations

import numpy as np
import pytest

from bench.scale.queues import Noise, Station, exponential, simulate, steady


def one_server(service_s: float, noise: Noise, n_replicas: int = 1) -> Station:
    """Requests one by one, without any cost of a batch."""
    return Station("only", service_s, 0.0, n_replicas, max_batch=1, noise=noise)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_server_waits_as_m_d_1_says(load: float) -> None:
    """Mean time in an M/D/1 system: s + s load / (2 (1 - load)) (Pollaczek-Khinchine)."""
    found = simulate([one_server(0.01, steady)], load / 0.01, 60_000, seed=1)
    expected_s = 0.01 + 0.01 * load / (2 * (1 - load))
    assert found.latency_s.mean() == pytest.approx(expected_s, rel=0.04)
    assert found.utilisation["only"] == pytest.approx(load, rel=0.03)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_random_service_times_wait_as_m_m_1_says(load: float) -> None:
    """Mean s / (1 - load), and the time is exponential: its 99th percentile is 4.605 means."""
    found = simulate([one_server(0.01, exponential)], load / 0.01, 80_000, seed=2)
    expected_s = 0.01 / (1 - load)
    assert found.latency_s.mean() == pytest.approx(expected_s, rel=0.06)
    assert np.percentile(found.latency_s, 99) == pytest.approx(4.605 * expected_s, rel=0.12)


def test_a_batch_takes_everything_that_waits() -> None:
    """Beyond the rate of single requests a batching replica keeps up, and batches grow."""
    station = Station("only", 0.01, 0.001, 1, max_batch=64)
    found = simulate([station], 300.0, 20_000, seed=3)
    # Batches of b at 300/s repeat every 0.01 + 0.001 b s: b = 300 (0.01 + 0.001 b), b = 4.3.
    assert len(found.latency_s) == 16_000 and found.utilisation["only"] > 0.95
    cycle_s = 0.01 + 0.001 * 4.286
    assert cycle_s < found.latency_s.mean() < 2 * cycle_s


def test_a_request_waits_for_the_slowest_part() -> None:
    """The greatest of independent exponentials has mean s (1 + 1/2 + ... + 1/n)."""
    parts = Station("shards", 0.01, 0.0, 1, n_parts=4, max_batch=1, noise=exponential)
    found = simulate([parts], 0.5, 20_000, seed=4)
    assert found.latency_s.mean() == pytest.approx(0.01 * (1 + 1 / 2 + 1 / 3 + 1 / 4), rel=0.03)


def test_stations_add_up_and_replicas_share_the_work() -> None:
    """Without any queue a request takes the sum; two replicas are each half as busy."""
    stations = [
        Station("gateway", 0.001, 0.0005, 2),
        Station("scorer", 0.004, 0.001, 2),
    ]
    found = simulate(stations, 5.0, 5_000, seed=5)
    assert np.median(found.latency_s) == pytest.approx(0.0065, rel=1e-6)
    assert found.utilisation["scorer"] == pytest.approx(5.0 * 0.005 / 2, rel=0.05)


def test_what_cannot_begin_in_time_is_given_up() -> None:
    """At twice the capacity about half is answered, and none much later than its deadline."""
    found = simulate([one_server(0.01, steady)], 200.0, 20_000, seed=6, deadline_s=0.1)
    assert found.n_late == pytest.approx(10_000, rel=0.05)
    assert found.latency_s.max() <= 0.1 + 0.01 + 1e-9


def test_a_seed_gives_one_result() -> None:
    """And another seed another one."""
    stations = [Station("only", 0.01, 0.001, 3, noise=exponential)]
    first, again = (simulate(stations, 100.0, 2_000, seed=7) for _ in range(2))
    other = simulate(stations, 100.0, 2_000, seed=8)
    assert np.array_equal(first.latency_s, again.latency_s)
    assert not np.array_equal(first.latency_s, other.latency_s)
