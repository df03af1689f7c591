"""Each interval against what it is made of: integrals, hand-worked cases, other formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evidence.confidence_sequence import half_width, log_evidence, relative_interval
from recsys.evidence.cuped import UserValues, adjust
from recsys.evidence.quantile_bounds import (
    ODDS_FACTORS,
    below_edges,
    log_likelihood_ratio,
    quantile_interval,
)
from recsys.evidence.rate_test import MIXTURE, log_mixture, rate_difference, rate_interval
from recsys.evidence.sample_ratio import log_bayes_factor, sample_ratio_p
from recsys.evidence.winsorised import winsorised


def test_the_normal_mixture_is_its_integral():
    """Robbins: the likelihood ratio averaged over effects drawn from N(0, scale^2)."""
    distance, error, scale = 0.07, 0.03, 0.05
    effects = np.linspace(-0.6, 0.6, 50_001)
    density = np.exp(-((effects / scale) ** 2) / 2) / (scale * math.sqrt(2 * math.pi))
    ratio = np.exp((distance * effects - effects**2 / 2) / error**2)
    integral = float(np.trapezoid(density * ratio, effects))
    assert float(log_evidence(distance, error, [scale])) == pytest.approx(math.log(integral))


def test_the_interval_of_the_paper_is_where_the_mixture_reaches_one_over_alpha():
    """Theorem 2.2 with rho^2 n = (scale / error)^2 and its tuning (eq. 161)."""
    error, n, alpha, tuned = 0.02, 700.0, 0.05, 1_000.0
    rho_squared = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuned
    half = float(half_width(error, n, alpha, tuned))
    scale = math.sqrt(rho_squared * n) * error
    assert float(log_evidence(half, error, [scale])) == pytest.approx(-math.log(alpha))


@settings(deadline=None, max_examples=10)
@given(st.floats(0.01, 1e6), st.floats(0.2, 5.0), st.floats(0.001, 0.3), st.floats(0.0005, 0.2))
def test_the_relative_interval_holds_the_estimate_and_narrows_with_data(base, ratio, error, alpha):
    """Whatever the scale of the values; four times the data lie inside one time the data."""
    variance = (error * base) ** 2
    wide, narrow = (
        relative_interval(base, variance / n, ratio * base, variance / n, alpha=alpha, scale=0.02)
        for n in (1, 4)
    )
    assert wide[0] <= narrow[0] < ratio - 1 < narrow[1] <= wide[1]


def test_the_relative_interval_ends_where_the_tested_effect_is_rejected():
    """Fieller: at the low end the mixture of canary - (1 + effect) baseline is at 1 / alpha."""
    low, high = relative_interval(0.08, 1e-6, 0.07, 2e-6, alpha=0.01, scale=0.02)
    assert -0.25 < float(low) < -0.125 < float(high) < 0.0
    unbounded = relative_interval(0.08, 0.01, 0.07, 0.01, alpha=0.01, scale=0.02)
    assert np.isinf(unbounded[1])


def test_the_rates_mixture_is_its_integral():
    """The likelihood averaged over the betas, numerically."""
    hits, n = 3, 40
    t = np.linspace(0.0, 1.0, 100_001)[1:-1]
    # Substituting p = sin^2 takes the poles of a beta of 1/2 away.
    rate, slope = np.sin(t * np.pi / 2) ** 2, np.pi * np.sin(t * np.pi / 2) * np.cos(t * np.pi / 2)
    total = 0.0
    for weight, a, b in MIXTURE:
        log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
        density = (a - 1) * np.log(rate) + (b - 1) * np.log1p(-rate) - log_beta
        likelihood = hits * np.log(rate) + (n - hits) * np.log1p(-rate)
        total += weight * float(np.trapezoid(np.exp(density + likelihood) * slope, t))
    assert float(log_mixture(hits, n)) == pytest.approx(math.log(total), rel=1e-6)


def test_the_rate_interval_misses_rarely_over_all_looks_by_exact_enumeration():
    """Ville, checked by the exact chances of every path of 120 requests at three rates."""
    alpha, n_requests = 0.05, 120
    for rate in (0.004, 0.05, 0.5):
        alive, left = np.zeros(n_requests + 2), 0.0
        alive[0] = 1.0
        hits = np.arange(n_requests + 2)
        for n in range(1, n_requests + 1):
            alive[1:] = alive[1:] * (1 - rate) + alive[:-1] * rate
            alive[0] *= 1 - rate
            seen = np.minimum(hits, n)
            likelihood = seen * math.log(rate) + (n - seen) * math.log1p(-rate)
            out = (log_mixture(seen, n) - likelihood >= -math.log(alpha)) & (hits <= n)
            left += float(alive[out].sum())
            alive[out] = 0.0
        assert left <= alpha


@pytest.mark.parametrize(
    ("counts", "is_shown"),
    [
        ((0, 300, 1, 300), False),
        ((0, 300, 3, 300), False),
        ((0, 300, 30, 300), True),
        ((0, 0, 0, 0), False),
        ((0, 300, 0, 0), False),
        ((300, 300, 300, 300), False),
        ((5, 10**7, 2 * 10**5 + 5, 10**7), True),
    ],
)
def test_few_errors_against_none_say_nothing_and_many_do(counts, is_shown):
    """A loss of more than a point is shown only where there is one."""
    low, high = rate_difference(*(float(count) for count in counts), 0.01)
    assert (float(low) > 0.01) is is_shown
    assert -1.0 <= low <= high <= 1.0


def test_a_rate_without_hits_is_bounded_by_a_few_over_n():
    """About 7 / n at 1 % and any look, where a fixed look would give 4.6 / n."""
    low, high = rate_interval(0.0, 1_000.0, 0.01)
    assert float(low) == 0.0
    assert 0.0046 < float(high) < 0.009


def test_the_quantiles_likelihood_ratio_is_a_martingale_at_the_tested_share():
    """Its mean over one more latency is what it is, worked out by hand."""
    share, hits, n = 0.9, np.asarray(45.0), np.asarray(50.0)
    now = math.exp(float(log_likelihood_ratio(hits, n, share)))
    below = math.exp(float(log_likelihood_ratio(hits + 1, n + 1, share)))
    above = math.exp(float(log_likelihood_ratio(hits, n + 1, share)))
    assert share * below + (1 - share) * above == pytest.approx(now)
    assert len(ODDS_FACTORS) == 8


def test_quantile_bounds_close_in_on_the_quantile():
    """Of 100,000 even latencies the median is bounded to its bucket and neighbours."""
    counts = {bucket: 5_000 for bucket in range(20)}
    below, _, edges_ms = below_edges(counts, {})
    low, high = quantile_interval(below, edges_ms, 0.5, 0.05)
    assert 1.1**8.5 < float(low) < 1.1**10 < float(high) < 1.1**11.5
    # Three of three that are slower say much of how high the p99 is at least, nothing of at most.
    few, _, edges_ms = below_edges({10: 3}, {})
    low, high = quantile_interval(few, edges_ms, 0.99, 0.05)
    assert (float(low), float(high)) == (pytest.approx(1.1**10), np.inf)


def test_the_sample_ratio_is_its_integral():
    """Lindon & Malek's mixture for two arms: a beta over the share, numerically."""
    share = np.linspace(0, 1, 50_001)[1:-1]
    log_prior = 49 * (np.log(share) + np.log1p(-share)) - 2 * math.lgamma(50) + math.lgamma(100)
    log_ratio = 30 * np.log(2 * share) + 55 * np.log(2 * (1 - share))
    integral = float(np.trapezoid(np.exp(log_prior + log_ratio), share))
    found = log_bayes_factor((30, 55), (0.5, 0.5))
    assert found == pytest.approx(math.log(integral), rel=1e-6)


def test_the_sample_ratio_goes_by_the_split_that_was_set():
    """Twice the users are right where twice were wanted."""
    assert sample_ratio_p(10_000, 20_000, 2.0) == pytest.approx(1.0)
    assert sample_ratio_p(10_000, 20_000, 1.0) < 1e-6
    assert sample_ratio_p(0, 0, 1.0) == 1.0


def test_sample_ratios_looked_at_after_every_user_are_refused_as_rarely_as_promised():
    """2,000 rollouts of 120 users, one look per user."""
    rng = np.random.default_rng(3)
    heads = np.cumsum(rng.integers(0, 2, (2_000, 120)), axis=1)
    limit = math.log(1 / 0.05)
    refused = np.zeros((121, 121), bool)
    for n in range(1, 121):
        for k in range(n + 1):
            refused[n, k] = log_bayes_factor((k, n - k), (0.5, 0.5), 10.0) >= limit
    share = refused[np.arange(1, 121), heads].any(1).mean()
    assert share <= 0.05


def users_of(rng, n, effect):
    """Users who click as they did before, and the relative effect on them."""
    own = rng.lognormal(0.0, 1.0, n)
    now = rng.poisson(3 * own * (1 + effect)).astype(float)
    before = np.where(rng.random(n) < 0.8, rng.poisson(3 * own).astype(float), np.nan)
    one = np.where(np.isnan(before), np.nan, 1.0)
    return UserValues(now, np.ones(n), before, one)


def test_cuped_narrows_and_stays_unbiased():
    """A fifth of the users have no past; over 200 draws the mean is the true difference."""
    rng = np.random.default_rng(5)
    plain, adjusted, narrower = [], [], []
    for _ in range(200):
        arms = users_of(rng, 400, 0.0), users_of(rng, 400, -0.1)
        found = adjust(*arms)
        assert found is not None
        difference = arms[1].top.mean() - arms[0].top.mean()
        plain.append(difference)
        adjusted.append(difference + found.shift_canary - found.shift_baseline)
        variance = sum(arm.top.var(ddof=1) / 400 for arm in arms)
        narrower.append((found.variance_baseline + found.variance_canary) / variance)
    truth = -0.3 * math.exp(0.5)
    assert np.mean(narrower) < 0.6
    assert np.std(adjusted) < 0.8 * np.std(plain)
    assert abs(np.mean(adjusted) - truth) < 4 * np.std(adjusted) / math.sqrt(200)


def test_a_past_that_says_nothing_adjusts_nothing():
    """No past, too few with one, or one that is the same for all."""
    values = np.arange(100.0)
    one, none = np.ones(100), np.full(100, np.nan)
    for before in (none, np.where(np.arange(100) < 10, 1.0, np.nan), one):
        arm = UserValues(values, one, before, np.where(np.isnan(before), np.nan, 1.0))
        assert adjust(arm, arm) is None


def test_winsorising_bounds_both_arms_by_one_value():
    """The bound is a quantile of both together."""
    first, second = winsorised(np.arange(100.0), np.array([5.0, 1e9]), 0.98)
    assert first.max() <= second.max() == 98.0
    assert winsorised(np.zeros(0), np.zeros(0), 0.9)[0].size == 0
