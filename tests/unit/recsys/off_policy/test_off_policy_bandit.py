"""Estimators of single choices, on a world whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.off_policy.cross_fitting import cross_fit
from recsys.off_policy.doubly_robust import (
    AllChoices,
    ModelledRounds,
    direct_method,
    doubly_robust,
    self_normalised_doubly_robust,
    switch_doubly_robust,
)
from recsys.off_policy.importance import (
    clipped,
    importance_weights,
    inverse_propensity,
    self_normalised,
)
from recsys.off_policy.ratio_estimate import Bootstrap, Values, estimate_ratios
from recsys.simulated.logistic_bandit import BanditLog, BanditWorld

QUIET = Bootstrap(n_resamples=0)
N_CHOICES, N_FEATURES = 6, 3
TARGET, LOGGING, FLOOR = 5.0, -2.0, 0.1


def a_log(seed: int, n_rounds: int) -> tuple[BanditLog, Values, float]:
    """A log of a poor policy, what a good one would do there, and its value on these contexts."""
    world = BanditWorld.draw(np.random.default_rng(1), N_CHOICES, N_FEATURES)
    log = BanditLog.draw(world, np.random.default_rng([2, seed]), n_rounds, LOGGING, FLOOR)
    target = world.policy(log.contexts, TARGET)
    return log, target, float((target * world.means(log.contexts)).sum(axis=1).mean())


def weights_of(log: BanditLog, target: Values) -> Values:
    """The weights of what was logged."""
    rounds = np.arange(len(log.chosen))
    return importance_weights(target[rounds, log.chosen], log.logging[rounds, log.chosen])


def modelled(
    log: BanditLog, target: Values, *, is_right: bool
) -> tuple[ModelledRounds, AllChoices]:
    """The rounds with a cross-fitted model of the reward."""
    rounds = np.arange(len(log.chosen))
    features = log.features(is_well_specified=is_right)
    fit = cross_fit(features, log.chosen, log.rewards, rounds, penalties=(1.0,))
    choices = AllChoices(target, target / log.logging, fit.expected)
    return (
        ModelledRounds(
            log.rewards,
            weights_of(log, target),
            fit.expected[rounds, log.chosen],
            choices.expected_target(),
            rounds,
        ),
        choices,
    )


def test_weighing_is_unbiased_and_its_error_is_the_one_it_states() -> None:
    """Over many logs the mean miss of IPS is within four of its standard errors of nothing."""
    misses, errors = [], []
    for seed in range(60):
        log, target, truth = a_log(seed, 1_000)
        weights = weights_of(log, target)
        found = inverse_propensity(log.rewards, weights, np.arange(len(weights)), bootstrap=QUIET)
        misses.append(found.value - truth)
        errors.append(found.error)
    spread = float(np.std(misses))
    assert abs(np.mean(misses)) < 4.0 * spread / np.sqrt(len(misses))
    assert 0.5 < spread / np.mean(errors) < 1.5


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """The 95 % interval of IPS and SNIPS misses at most a fifth of thirty truths."""
    n_held = 0
    for seed in range(30):
        log, target, truth = a_log(seed, 300)
        rounds, weights = np.arange(len(log.chosen)), weights_of(log, target)
        drawn = Bootstrap(n_resamples=100)
        found = inverse_propensity(log.rewards, weights, rounds, bootstrap=drawn)
        n_held += found.low <= truth <= found.high
    assert n_held >= 24


def test_a_wrong_model_misleads_the_direct_method_and_not_the_doubly_robust_ones() -> None:
    """With a model that sees no choice DM is far off, while DR, SNDR and Switch-DR are not."""
    log, target, truth = a_log(0, 8_000)
    rounds, choices = modelled(log, target, is_right=False)
    assert abs(direct_method(rounds, bootstrap=QUIET).value - truth) > 0.15
    for found in (
        doubly_robust(rounds, bootstrap=QUIET),
        self_normalised_doubly_robust(rounds, bootstrap=QUIET),
        switch_doubly_robust(rounds, choices, bootstrap=QUIET),
    ):
        assert abs(found.value - truth) < max(4.0 * found.error, 0.02), found.name


def test_the_true_model_makes_doubly_robust_far_more_exact_than_weighing() -> None:
    """Over eighty logs DR's squared error is below half of IPS's, where the model is the truth."""
    errors: dict[str, list[float]] = {"IPS": [], "DR": []}
    world = BanditWorld.draw(np.random.default_rng(1), N_CHOICES, N_FEATURES)
    for seed in range(80):
        log, target, truth = a_log(seed, 500)
        weights, at = weights_of(log, target), np.arange(500)
        choices = AllChoices(target, target / log.logging, world.means(log.contexts))
        expected = choices.expected[at, log.chosen]
        rounds = ModelledRounds(log.rewards, weights, expected, choices.expected_target(), at)
        for found in (
            inverse_propensity(log.rewards, weights, at, bootstrap=QUIET),
            doubly_robust(rounds, bootstrap=QUIET),
        ):
            errors[found.name].append(found.value - truth)
    assert np.mean(np.square(errors["DR"])) < 0.5 * np.mean(np.square(errors["IPS"]))


def test_a_fitted_model_makes_the_stated_error_smaller() -> None:
    """On one log, with a cross-fitted model that sees what matters."""
    log, target, _ = a_log(0, 1_500)
    rounds, _ = modelled(log, target, is_right=True)
    weighed = inverse_propensity(log.rewards, rounds.weights, rounds.clusters, bootstrap=QUIET)
    assert doubly_robust(rounds, bootstrap=QUIET).error < 0.75 * weighed.error


def test_clipping_trades_variance_for_a_bias_it_states() -> None:
    """Less error, a value below that of IPS, by no more than the weight that was cut off."""
    log, target, _ = a_log(3, 2_000)
    weights, rounds = weights_of(log, target), np.arange(2_000)
    whole = inverse_propensity(log.rewards, weights, rounds, bootstrap=QUIET)
    cut = clipped(log.rewards, weights, rounds, bound=3.0, bootstrap=QUIET)
    assert cut.error < whole.error
    assert 0.0 < whole.value - cut.value <= float(np.maximum(weights - 3.0, 0.0).mean())
    assert "weights at most 3" in cut.note


def test_switching_everything_to_the_model_is_the_model_and_nothing_is_doubly_robust() -> None:
    """The two ends of Switch-DR's threshold."""
    log, target, _ = a_log(4, 500)
    rounds, choices = modelled(log, target, is_right=True)
    ends = [
        switch_doubly_robust(rounds, choices, threshold=at, bootstrap=QUIET).value
        for at in (0.0, np.inf)
    ]
    assert ends[0] == pytest.approx(direct_method(rounds, bootstrap=QUIET).value)
    assert ends[1] == pytest.approx(doubly_robust(rounds, bootstrap=QUIET).value)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100.0))
def test_self_normalising_stays_within_the_rewards_and_forgets_the_scale(
    seed: int, scale: float
) -> None:
    """SNIPS is a weighted mean of rewards, whatever the weights are multiplied with."""
    rng = np.random.default_rng(seed)
    rewards, weights = rng.random(30), rng.gamma(0.3, 1.0, 30) + 1e-6
    clusters = np.arange(30)
    found = self_normalised(rewards, weights, clusters, bootstrap=QUIET)
    scaled = self_normalised(rewards, scale * weights, clusters, bootstrap=QUIET)
    assert rewards.min() <= found.value <= rewards.max()
    assert scaled.value == pytest.approx(found.value)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_a_policy_evaluated_on_its_own_log_earns_what_it_earned(seed: int) -> None:
    """With weights of 1 every estimator that corrects by the log is the empirical mean."""
    rng = np.random.default_rng(seed)
    rewards, ones, clusters = rng.random(20), np.ones(20), rng.integers(0, 5, 20)
    expected = rng.random(20)
    rounds = ModelledRounds(rewards, ones, expected, expected, clusters)
    for found in (
        inverse_propensity(rewards, ones, clusters, bootstrap=QUIET),
        self_normalised(rewards, ones, clusters, bootstrap=QUIET),
        clipped(rewards, ones, clusters, bootstrap=QUIET),
        doubly_robust(rounds, bootstrap=QUIET),
        self_normalised_doubly_robust(rounds, bootstrap=QUIET),
    ):
        assert found.value == pytest.approx(rewards.mean()), found.name


def test_rounds_of_one_user_count_as_one_when_they_say_the_same() -> None:
    """Repeating every round for its user changes neither value, error nor interval."""
    rng = np.random.default_rng(0)
    rewards, users = rng.random(50), np.arange(50)
    once = estimate_ratios("mean", rewards, np.ones(50), users)
    thrice = estimate_ratios("mean", np.repeat(rewards, 3), np.ones(150), np.repeat(users, 3))
    assert (thrice.value, thrice.error) == pytest.approx((once.value, once.error))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n_rounds, thrice.n_clusters) == (150, 50)


def test_a_log_without_rounds_has_no_value_and_says_so() -> None:
    """No rounds, or weights of nothing but 0, give no number; as JSON they are null."""
    nothing = np.zeros(0)
    empty = inverse_propensity(nothing, nothing, nothing)
    unseen = self_normalised(np.ones(5), np.zeros(5), np.arange(5))
    assert np.isnan(empty.value)
    assert np.isnan(unseen.value)
    assert empty.as_dict()["value"] is None


def test_a_propensity_of_nothing_is_refused() -> None:
    """What was logged cannot have been impossible."""
    with pytest.raises(ValueError, match="1 logged propensities are not above 0"):
        importance_weights(np.ones(2), np.array([0.5, 0.0]))
