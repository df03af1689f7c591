"""The quick ends of intervals are those of plain bisection, whatever the counts."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys.evidence.confidence_sequence import effect_scales, log_evidence, relative_interval
from recsys.evidence.quantile_bounds import ODDS_FACTORS, log_likelihood_ratio
from recsys.evidence.rate_test import MIXTURE, rate_interval

ALPHAS = st.sampled_from([0.2, 0.05, 0.05 / 12, 1e-6])


def bisected(is_inside, inside, outside):
    """Where a predicate changes, to the last digit; the outside if it never does."""
    if is_inside(outside):
        return outside
    for _ in range(200):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return outside


def plain_rate_interval(hits, n, alpha):
    """The definition, one rate at a time."""
    parts = [
        math.log(weight)
        + math.lgamma(a + hits)
        + math.lgamma(b + n - hits)
        - math.lgamma(a + b + n)
        - (math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
        for weight, a, b in MIXTURE
    ]
    least = max(parts) + math.log(sum(math.exp(part - max(parts)) for part in parts))
    least += math.log(alpha)

    def is_inside(rate):
        found = hits * math.log(rate) if hits and rate else -math.inf if hits else 0.0
        missed = n - hits
        return found + (missed * math.log1p(-rate) if missed and rate < 1 else -math.inf if missed
                        else 0.0) >= least  # fmt: skip

    center = hits / n if n else 0.5
    return bisected(is_inside, center, 0.0), bisected(is_inside, center, 1.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0), st.integers(-3, 3), ALPHAS)
def test_the_ends_of_a_rate_are_where_the_plain_test_changes(n, share, near, alpha):
    """Also with hits that are fractions, none, or all."""
    hits = min(max(n * share if near == 0 else (near if near > 0 else n + near), 0.0), float(n))
    low, high = rate_interval(hits, n, alpha)
    assert (float(low), float(high)) == pytest.approx(
        plain_rate_interval(hits, n, alpha), abs=1e-9, rel=1e-9
    )


def test_many_rates_at_once_are_those_one_by_one():
    """An array's elements do not depend on their neighbours."""
    hits, n = np.array([0.0, 5.0, 0.0, 7.0, 999_999.0]), np.array([0.0, 5.0, 9.0, 1e9, 1e6])
    low, high = rate_interval(hits, n, 0.01)
    for place in range(len(n)):
        alone = rate_interval(hits[place], n[place], 0.01)
        assert (low[place], high[place]) == pytest.approx([float(end) for end in alone])
    assert (low[0], high[0]) == (0.0, 1.0)


def plain_relative_interval(base, base_variance, ratio, variance, alpha, scale):
    """The definition: walk from the estimate outwards in standard errors, and halve."""
    unit = math.sqrt((variance + ratio**2 * base_variance) / base**2)
    scales, limit = effect_scales(scale, alpha), -math.log(alpha)

    def is_inside(step):
        tested = ratio + step * unit
        error = math.sqrt((variance + tested**2 * base_variance) / base**2)
        wider = math.sqrt((1 + tested**2) / 2)
        found = log_evidence(step * unit, error, [one * wider for one in scales])
        return float(found) < limit

    ends = []
    for sign in (-1, 1):
        outside = sign * 1e6
        if is_inside(outside):
            ends.append(sign * math.inf)
            continue
        # The first of widening steps that is out brackets the end nearest to the estimate.
        steps = [sign * 1.2**k for k in range(-10, 77)]
        place = next((k for k, step in enumerate(steps) if not is_inside(step)), len(steps) - 1)
        end = bisected(is_inside, steps[place - 1] if place else 0.0, steps[place])
        ends.append(ratio + end * unit - 1)
    return ends


@example(base=1.0, error=0.21875, ratio=1.0, apart=2.0, alpha=0.2, scale=0.02)
@settings(deadline=None, max_examples=15)
@given(
    st.floats(1e-3, 1e4), st.floats(1e-4, 0.4), st.floats(0.3, 3.0), st.floats(0.5, 2.0), ALPHAS,
    st.sampled_from([0.0, 0.02, 0.25]),
)  # fmt: skip
def test_the_ends_of_an_effect_are_where_the_plain_test_changes(
    base, error, ratio, apart, alpha, scale
):
    """Of arms whose values are about as uncertain, as equal slices' are."""
    variance = (error * base) ** 2
    low, high = relative_interval(base, variance, ratio * base, apart * variance,
                                  alpha=alpha, scale=scale)  # fmt: skip
    plain = plain_relative_interval(base, variance, ratio, apart * variance, alpha, scale)
    assert (float(low), float(high)) == pytest.approx(plain, rel=1e-8, abs=1e-9)


def test_values_that_cannot_be_compared_have_no_interval():
    """NaN stays NaN, in an array with sound ones; no spread at all is a point."""
    low, high = relative_interval(
        np.array([0.1, np.nan, 0.1]), np.array([1e-5, 1.0, np.nan]),
        np.array([0.1, 1.0, 0.1]), np.array([1e-5, 1.0, 1.0]), alpha=0.05, scale=0.02,
    )  # fmt: skip
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1:], high[1:]]).all()
    point = relative_interval(0.1, 0.0, 0.11, 0.0, alpha=0.05, scale=0.02)
    assert [float(end) for end in point] == pytest.approx([0.1, 0.1])


def test_the_likelihood_ratio_of_a_quantile_is_its_sum_over_odds():
    """One hit count at a time."""
    share, hits, n = 0.99, 990.0, 995.0
    total = 0.0
    for factor in ODDS_FACTORS:
        odds = share / (1 - share) * factor
        rate = odds / (1 + odds)
        total += (rate / share) ** hits * ((1 - rate) / (1 - share)) ** (n - hits)
    found = log_likelihood_ratio(np.array([hits]), np.array([n]), share)
    assert found[0] == pytest.approx(math.log(total / len(ODDS_FACTORS)))
