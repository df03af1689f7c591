"""Slate estimators and the propensities of given slates, against enumeration of all slates."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.off_policy.ratio_estimate import Bootstrap, Values
from recsys.off_policy.slate_weighting import (
    item_position,
    pseudo_inverse,
    pseudo_inverse_weights,
    reward_interaction,
    whole_slate,
)
from recsys.settings import OrderingSettings
from recsys.types import FloatArray
from tests.slates_for_tests import candidate_propensities, order_candidates

QUIET = Bootstrap(n_resamples=0)
N_ITEMS, N_POSITIONS = 4, 3
SLATES = np.array(list(permutations(range(N_ITEMS), N_POSITIONS)), np.int32)  # [S, K]

policies = st.builds(
    OrderingSettings,
    pool=st.integers(1, 6),
    diversity=st.sampled_from([0.0, 0.3, 1.0]),
    max_per_category=st.integers(0, 2),
    exploration=st.sampled_from([0.0, 0.2, 1.0]),
    temperature=st.sampled_from([0.1, 1.0]),
)


def propensities(seed: int, policy: OrderingSettings, slates: NDArray[np.int32]) -> Values:
    """Those of slates that all come from the same candidates."""
    n = len(slates)
    utility, vectors, categories = candidates(seed, n)
    return candidate_propensities(utility, vectors, categories, categories, slates, policy)


def candidates(seed: int, n: int) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
    """The same four candidates for each of n requests."""
    rng = np.random.default_rng(seed)
    utility = np.tile(rng.normal(size=N_ITEMS).astype(np.float32), (n, 1))
    vectors = np.tile(rng.normal(size=(N_ITEMS, 3)).astype(np.float32), (n, 1, 1))
    return utility, vectors, np.tile(rng.integers(-1, 2, N_ITEMS).astype(np.int32), (n, 1))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), policy=policies)
def test_the_propensities_of_all_slates_add_up_to_one(seed: int, policy: OrderingSettings) -> None:
    """Every slate the policy can draw is among them, with the probability of drawing it."""
    chances = propensities(seed, policy, SLATES).prod(axis=1)
    assert (chances >= 0.0).all()
    wide = policy.pool >= N_POSITIONS
    assert chances.sum() == pytest.approx(1.0) or not wide


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), policy=policies)
def test_a_drawn_slate_has_the_propensities_it_was_logged_with(
    seed: int, policy: OrderingSettings
) -> None:
    """Looking a slate up gives what drawing it gave."""
    n = 20
    utility, vectors, categories = candidates(seed, n)
    k = np.random.default_rng(seed).integers(1, N_ITEMS + 1, n).astype(np.int32)
    drawn = order_candidates(
        utility, vectors, categories, categories, k, np.arange(n, dtype=np.uint64), policy
    )
    found = candidate_propensities(utility, vectors, categories, categories, drawn.picked, policy)
    np.testing.assert_allclose(found, drawn.propensity, rtol=1e-5)


def test_what_the_policy_cannot_show_has_no_chance_and_nothing_after_it_has() -> None:
    """An item outside the pool, one twice, and padding: 0 from there on."""
    policy = OrderingSettings(pool=3, exploration=0.5)
    utility = np.tile(np.array([4.0, 3.0, 2.0, 1.0], np.float32), (3, 1))
    nothing = np.full((3, 4), -1, np.int32)
    slates = np.array([[0, 3, 1], [0, 0, 1], [1, -1, -1]], np.int32)
    found = candidate_propensities(utility, None, nothing, nothing, slates, policy)
    assert (found > 0.0).tolist() == [[True, False, False]] * 3


class SlateWorld:
    """A log that holds every slate as often as its policy says, exactly, and a target policy."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 6, len(SLATES))
        self.rows = np.repeat(np.arange(len(SLATES)), counts)
        self.clusters = np.arange(len(self.rows))
        self.logging = counts / counts.sum()  # [S]
        policy = OrderingSettings(diversity=0.3, exploration=0.4, temperature=0.5)
        self.target_given_above = propensities(seed, policy, SLATES)  # [S, K]
        self.target = self.target_given_above.prod(axis=1)  # [S]
        self.rewards = rng.random((N_POSITIONS, N_ITEMS))  # of an item at a position
        self.boosts = rng.random((N_ITEMS, N_ITEMS))  # of an item by the one above it

    def logging_given_above(self) -> Values:
        """The log's propensities given the items above, [S, K]."""
        reached = np.ones(len(SLATES))
        found = np.zeros(SLATES.shape)
        for position in range(N_POSITIONS):
            same = (SLATES[:, None, : position + 1] == SLATES[None, :, : position + 1]).all(axis=2)
            here = same @ self.logging
            found[:, position] = here / reached
            reached = here
        return found

    def marginals(self, chances: Values) -> Values:
        """The probability of each item at each position, [K, P]."""
        found = np.zeros((N_POSITIONS, N_ITEMS))
        for position in range(N_POSITIONS):
            np.add.at(found[position], SLATES[:, position], chances)
        return found

    def item_rewards(self) -> Values:
        """Rewards of items at positions, whatever is above, [S, K]."""
        return self.rewards[np.arange(N_POSITIONS), SLATES]

    def cascade_rewards(self) -> Values:
        """Rewards that the item directly above has a part in, [S, K]."""
        found = self.item_rewards().copy()
        found[:, 1:] += self.boosts[SLATES[:, :-1], SLATES[:, 1:]]
        return found

    def value(self, rewards: Values) -> float:
        """What the target policy earns, by enumeration."""
        return float(self.target @ rewards.sum(axis=1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_whole_slates_and_reward_interactions_are_exact_for_a_cascade(seed: int) -> None:
    """Both find the target's value where a reward depends on what is above it."""
    world = SlateWorld(seed)
    rewards = world.cascade_rewards()
    ratios = world.target_given_above / world.logging_given_above()
    for plain, _ in (
        whole_slate(rewards[world.rows], ratios[world.rows], world.clusters, bootstrap=QUIET),
        reward_interaction(
            rewards[world.rows], ratios[world.rows], world.clusters, bootstrap=QUIET
        ),
    ):
        assert plain.value == pytest.approx(world.value(rewards), abs=1e-9), plain.name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_item_position_and_pseudo_inverse_are_exact_for_separate_items(seed: int) -> None:
    """Both find the value where a reward is its item's and position's own, and so does self-
    normalising where the log is the exact policy."""
    world = SlateWorld(seed)
    rewards = world.item_rewards()
    ratios = world.marginals(world.target) / world.marginals(world.logging)
    own = ratios[np.arange(N_POSITIONS), SLATES]
    plain, normalised = item_position(
        rewards[world.rows], own[world.rows], world.clusters, bootstrap=QUIET
    )
    shown = np.zeros((len(SLATES), N_POSITIONS * N_ITEMS), np.bool_)
    for position in range(N_POSITIONS):
        shown[np.arange(len(SLATES)), position * N_ITEMS + SLATES[:, position]] = True
    second = (shown * world.logging[:, None]).T @ shown
    weights = pseudo_inverse_weights(second, world.target @ shown, shown[world.rows])
    inverse = pseudo_inverse(
        rewards[world.rows].sum(axis=1), weights, world.clusters, bootstrap=QUIET
    )
    for found in (plain, normalised, inverse):
        assert found.value == pytest.approx(world.value(rewards), abs=1e-9), found.name


def test_item_position_is_wrong_where_rewards_interact() -> None:
    """What it supposes matters: with a cascade it misses by more than rounding."""
    world = SlateWorld(0)
    rewards = world.cascade_rewards()
    ratios = world.marginals(world.target) / world.marginals(world.logging)
    own = ratios[np.arange(N_POSITIONS), SLATES]
    plain, _ = item_position(rewards[world.rows], own[world.rows], world.clusters, bootstrap=QUIET)
    assert abs(plain.value - world.value(rewards)) > 1e-3
