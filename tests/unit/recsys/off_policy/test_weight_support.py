"""When a log can say something of a policy, and when it must not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.off_policy.cross_fitting import (
    RewardFeatures,
    cross_fit,
    fit_logistic,
    fold_of_clusters,
)
from recsys.off_policy.ratio_estimate import Values
from recsys.off_policy.weight_support import (
    SupportRules,
    SupportVerdict,
    ThinSupport,
    effective_size,
    judge_support,
    measure_support,
)

N = 4_000


def verdict(weights: Values, rewards: Values | None = None, **known: Values) -> SupportVerdict:
    """The verdict on weights whose rewards are all 1 unless named."""
    rewards = np.ones(len(weights)) if rewards is None else rewards
    return judge_support(measure_support(weights, rewards, np.arange(len(weights)), **known))


def test_a_policy_on_its_own_log_is_supported() -> None:
    """Weights of 1: every round counts whole."""
    found = verdict(np.ones(N))
    assert found.is_supported
    assert (found.figures.ess, found.figures.mean_weight) == (N, 1.0)
    found.require("itself")


def test_few_heavy_rounds_are_refused_with_the_figures_and_what_to_do() -> None:
    """Ten rounds that weigh four hundred each are worth ten."""
    weights = np.zeros(N)
    weights[:10] = N / 10
    with pytest.raises(ThinSupport, match=r"size of 4,000 rounds is 10\.0, at least 1,000") as said:
        verdict(weights).require("greedy ordering")
    assert said.value.exit_code == 6
    assert "ordering.exploration" in str(said.value)


def test_a_mean_weight_away_from_one_is_refused() -> None:
    """Half of the target's mass is missing from the log."""
    reasons = verdict(np.full(N, 0.5)).reasons
    assert len(reasons) == 1
    assert "mean weight is 0.5000" in reasons[0]


def test_choices_the_log_never_makes_are_refused() -> None:
    """A third of the target stands where the logging policy has probability 0."""
    logging = np.tile([0.5, 0.5, 0.0], (N, 1))
    target = np.full((N, 3), 1 / 3)
    weights = np.where(np.arange(N) % 2, 0.9, 1.1)
    reasons = verdict(weights, logging=logging, target=target).reasons
    assert len(reasons) == 1
    assert "33.3% of the target's choices" in reasons[0]


def test_too_few_rewards_are_refused() -> None:
    """A log in which hardly anybody ever reacted says nothing of rewards."""
    rewards = np.zeros(N)
    rewards[:5] = 1.0
    assert "5.0 effective rewards" in verdict(np.ones(N), rewards).reasons[0]


def test_an_empty_log_and_numbers_that_are_none_are_refused() -> None:
    """No rounds, and a weight that is not finite."""
    assert not verdict(np.zeros(0)).is_supported
    broken = np.ones(N)
    broken[3] = np.nan
    assert not verdict(broken).is_supported
    assert verdict(broken).as_dict()["mean_weight"] is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=30))
def test_the_effective_size_is_between_one_and_the_number_of_weights(weights: list[float]) -> None:
    """Kish's bounds, and 0 for weights of nothing."""
    size = effective_size(np.array(weights))
    assert size == 0.0 or 1.0 - 1e-6 <= size <= len(weights) * (1.0 + 1e-9)


def test_rules_are_the_callers() -> None:
    """A caller that asks for less gets it."""
    figures = measure_support(np.ones(50), np.ones(50), np.arange(50))
    assert not judge_support(figures).is_supported
    assert judge_support(figures, SupportRules(min_ess=20.0)).is_supported


def test_no_round_is_predicted_by_a_model_that_saw_its_user() -> None:
    """Turning one user's rewards around changes others' predictions and never the own ones."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40), 5)
    features = RewardFeatures(rng.normal(size=(200, 2)), np.eye(3), is_crossed=True)
    chosen, rewards = rng.integers(0, 3, 200), (rng.random(200) < 0.4).astype(np.float64)
    turned = np.where(users == 7, 1.0 - rewards, rewards)
    before = cross_fit(features, chosen, rewards, users, penalties=(1.0,)).expected
    after = cross_fit(features, chosen, turned, users, penalties=(1.0,)).expected
    np.testing.assert_array_equal(before[users == 7], after[users == 7])
    assert not np.allclose(before[users != 7], after[users != 7])
    folds = fold_of_clusters(users, 0)
    assert all(len(set(folds[users == user])) == 1 for user in range(40))


def test_the_regression_finds_what_rewards_are_made_of() -> None:
    """With many rounds and little penalty it recovers the slopes; `logits` has the same design."""
    rng = np.random.default_rng(0)
    design = np.concatenate([np.ones((20_000, 1)), rng.normal(size=(20_000, 2))], axis=1)
    truth = np.array([-1.0, 0.8, -0.5])
    rewards = (rng.random(20_000) < 1.0 / (1.0 + np.exp(-design @ truth))).astype(np.float64)
    np.testing.assert_allclose(fit_logistic(design, rewards, 1e-3), truth, atol=0.1)
    features = RewardFeatures(
        rng.normal(size=(6, 2)), rng.normal(size=(3, 2)), rng.normal(size=(6, 3, 1)), True
    )
    chosen = rng.integers(0, 3, 6)
    weights = rng.normal(size=1 + 2 + 2 + 1 + 4)
    logits = features.logits(np.arange(6), weights)
    np.testing.assert_allclose(features.of_logged(chosen) @ weights, logits[np.arange(6), chosen])


def test_a_fold_without_rewards_predicts_little_and_not_nothing() -> None:
    """No reward at all leaves a small probability."""
    weights = fit_logistic(np.ones((100, 1)), np.zeros(100), 1.0)
    assert 0.0 < 1.0 / (1.0 + np.exp(-weights[0])) < 0.02
