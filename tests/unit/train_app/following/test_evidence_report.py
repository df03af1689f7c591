"""Ratios over users with their intervals, latencies in buckets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.stores.evidence.evidence_sums import LatencyHistogram, latency_bucket
from train_app.following.evidence.evidence_report import Z_95, ratio_by_user, show_evidence


def test_an_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    """Users differ in how much they see and in how much they like; slates of one go together."""
    rng = np.random.default_rng(7)
    n_trials, n_held = 600, 0
    for _ in range(n_trials):
        n_slates = rng.poisson(5, 300) + 1
        engaged = rng.binomial(n_slates, rng.beta(2, 6, 300))
        found = ratio_by_user(engaged, n_slates)
        assert found.low is not None
        assert found.high is not None
        n_held += found.low <= 0.25 <= found.high
    assert 0.92 <= n_held / n_trials <= 0.98


def test_one_slate_per_user_gives_the_interval_of_a_share() -> None:
    """The delta method agrees with the binomial formula."""
    engaged = np.array([1] * 30 + [0] * 70)
    found = ratio_by_user(engaged, np.ones(100, np.int64))
    assert found.value == 0.3
    assert found.high == pytest.approx(0.3 + Z_95 * math.sqrt(0.3 * 0.7 / 99))


def test_few_users_have_no_interval_and_none_no_ratio() -> None:
    """A bound that means nothing is not printed."""
    few = ratio_by_user(np.array([1, 0]), np.array([2, 2]))
    assert (few.value, few.low, few.high) == (0.25, None, None)
    assert ratio_by_user(np.array([0]), np.array([0])).value is None


def test_quantiles_come_from_buckets_within_five_percent() -> None:
    """Whatever the scale."""
    rng = np.random.default_rng(3)
    for scale in (1.0, 80.0, 4000.0):
        times = rng.lognormal(0, 1, 5000) * scale
        counts: dict[int, int] = {}
        for time_ms in times.tolist():
            counts[latency_bucket(time_ms)] = counts.get(latency_bucket(time_ms), 0) + 1
        histogram = LatencyHistogram(counts)
        for share in (0.5, 0.95, 0.99):
            exact = float(np.quantile(times, share))
            assert histogram.quantile_ms(share) == pytest.approx(exact, rel=0.06)


@pytest.mark.parametrize("latency_ms", [-1.0, 0.0, math.nan, math.inf, 1e12])
def test_an_absurd_latency_has_a_bucket(latency_ms: float) -> None:
    """The first or the last."""
    assert latency_bucket(0.1) <= latency_bucket(latency_ms) <= latency_bucket(3_600_000.0)
    assert math.isnan(LatencyHistogram({}).quantile_ms(0.5))


def test_a_wrong_range_or_segment_is_refused() -> None:
    """Before the store is opened."""
    with pytest.raises(ConfigError, match="is empty, expected --since before --until"):
        show_evidence(Settings(), since_ms=10**12, until_ms=10**11)
    with pytest.raises(ConfigError, match="'mood' is not counted, expected user_age, device"):
        show_evidence(Settings(), by="mood")
