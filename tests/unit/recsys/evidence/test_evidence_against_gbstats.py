"""The statistics of rollouts beside those of GrowthBook's gbstats, on the same inputs."""

import math

import numpy as np
import pytest
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import (
    RatioStatistic,
    RegressionAdjustedStatistic,
    SampleMeanStatistic,
)
from gbstats.utils import check_srm

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.confidence_sequence import half_width, log_evidence, mixing_variance
from recsys.evidence.cuped import UserValues, adjust
from recsys.evidence.effect_estimates import Estimate, estimate
from recsys.evidence.metric_rules import Better, MetricRule, Role, Shape
from recsys.evidence.ratio_moments import ratio_moments
from recsys.evidence.sample_ratio import log_bayes_factor
from recsys.stores.evidence.evidence_sums import LatencyHistogram

N = (900, 1_100)
TUNED_N = 3_000.0


def columns(arm: int):
    """Shown, clicked and formerly clicked per user: whole numbers without a random generator."""
    user = np.arange(N[arm])
    shown = 10.0 + (user * (7 + arm)) % 31
    past = (user * 13 + 5 * arm) % 17 * 1.0
    clicked = np.floor(0.07 * shown) + (user * 29 + arm) % 5 + np.floor(past / 4) - 0.25 * arm
    return shown, clicked, past


def sample(arm: int, with_past: bool) -> ArmSample:
    """The columns as an arm."""
    shown, clicked, past = columns(arm)
    users = {"one": np.ones(N[arm]), "shown": shown, "clicked": clicked}
    before = {"one": np.ones(N[arm]), "clicked": past} if with_past else None
    return ArmSample("canary", "b", users, before, {}, LatencyHistogram({}))


def estimated(shape: Shape, with_past: bool) -> Estimate:
    """Canary beside baseline."""
    rule = MetricRule("x", Better.HIGHER, Role.CRITICAL, 0.02, shape, "clicked", "shown")
    found = estimate(rule, sample(0, with_past), sample(1, with_past), 0.05)
    assert isinstance(found, Estimate)
    return found


def ours() -> dict[str, list[float]]:
    """Effect, standard error and ends of the interval tuned for one sample size, per method."""
    found = {}
    for name, shape, with_past in (
        ("mean", Shape.MEAN, False),
        ("ratio", Shape.RATIO, False),
        ("adjusted", Shape.MEAN, True),
    ):
        one = estimated(shape, with_past)
        half = float(half_width(one.error, sum(N), 0.05, TUNED_N))
        found[name] = [one.effect, one.error, one.effect - half, one.effect + half]
    return found


def theirs() -> dict[str, list[float]]:
    """The same of gbstats."""
    stats: dict[str, list[object]] = {"mean": [], "ratio": [], "adjusted": []}
    for arm in (0, 1):
        shown, clicked, past = columns(arm)
        one, before, below = (
            SampleMeanStatistic(n=N[arm], sum=float(x.sum()), sum_squares=float(x @ x))
            for x in (clicked, past, shown)
        )
        stats["mean"].append(one)
        stats["ratio"].append(RatioStatistic(N[arm], one, below, float(clicked @ shown)))
        joint = float(clicked @ past)
        stats["adjusted"].append(RegressionAdjustedStatistic(N[arm], one, before, joint, 0.0))
    found = {}
    for name, (first, second) in stats.items():
        config = SequentialConfig(alpha=0.05, sequential_tuning_parameter=TUNED_N)
        test = SequentialTwoSidedTTest(first, second, config)
        interval = [float(end) for end in test.confidence_interval]
        found[name] = [float(test.point_estimate), float(np.sqrt(test.variance)), *interval]
    return found


@pytest.mark.parametrize(
    ("name", "tolerance"), [("mean", 1e-9), ("ratio", 1e-9), ("adjusted", 2e-3)]
)
def test_effect_error_and_sequential_interval_are_those_of_gbstats(name, tolerance):
    """The adjusted differ a little: its theta is around the mean of all, ours around each arm's."""
    assert ours()[name] == pytest.approx(theirs()[name], rel=tolerance)


def test_the_sequential_p_value_is_one_over_the_mixture():
    """With one scale the martingale is gbstats' e-value: rejecting at 1/alpha is leaving it."""
    one = estimated(Shape.MEAN, with_past=False)
    variance = one.error**2 * sum(N)
    scale = math.sqrt(mixing_variance(0.05, TUNED_N) * variance)
    half = float(half_width(one.error, sum(N), 0.05, TUNED_N))
    assert float(log_evidence(half, one.error, [scale])) == pytest.approx(math.log(20))


def test_a_sample_ratio_that_a_chi_square_test_refuses_is_refused_later_never_sooner():
    """gbstats' fixed-horizon p (chi-square, one degree) is the price of looking once."""
    for canary in (5_000, 5_100, 5_200, 5_300, 5_500):
        total = 5_000 + canary
        chi_square = (5_000 - total / 2) ** 2 / (total / 2) * 2
        fixed_p = math.erfc(math.sqrt(chi_square / 2))
        if canary == 5_200:
            assert check_srm([5_000, canary], [0.5, 0.5]) == pytest.approx(fixed_p, rel=1e-9)
        always_p = min(1.0, math.exp(-log_bayes_factor((5_000, canary), (0.5, 0.5))))
        assert always_p >= fixed_p


def test_the_ratios_variance_is_the_delta_methods_written_out():
    """(var N - 2 R cov + R^2 var D) / (n mean(D)^2), with sample moments."""
    shown, clicked, _ = columns(0)
    ratio = clicked.sum() / shown.sum()
    covariance = np.cov(clicked, shown)
    expected = covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]
    found = ratio_moments(clicked, shown).variance(np.asarray(0.0))
    assert float(found) == pytest.approx(expected / (N[0] * shown.mean() ** 2))


def test_theta_is_the_pooled_regression_slope_within_arms():
    """By least squares with one intercept per arm."""
    arms = [columns(arm) for arm in (0, 1)]
    values = [UserValues(c, np.ones(len(c)), p, np.ones(len(p))) for _, c, p in arms]
    found = adjust(*values)
    assert found is not None
    indicator = np.repeat([0.0, 1.0], N)
    design = np.column_stack([1 - indicator, indicator, np.concatenate([p for *_, p in arms])])
    slope = np.linalg.lstsq(design, np.concatenate([c for _, c, _ in arms]), rcond=None)[0][2]
    assert found.theta == pytest.approx(slope)
