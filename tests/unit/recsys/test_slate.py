"""Ordering: what a slate may never do, and propensities checked by enumeration."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.settings import OrderingSettings
from recsys.slate import ItemFacts, Slates, order_slates
from recsys.types import FloatArray
from tests.slates_for_tests import order_candidates


def order(
    utility: FloatArray,
    policy: OrderingSettings,
    *,
    k: int | list[int] = 4,
    seeds: list[int] | None = None,
    vectors: FloatArray | None = None,
    categories: list[list[int]] | None = None,
    creators: list[list[int]] | None = None,
) -> Slates:
    """Slates with everything a test does not name left empty."""
    n, width = utility.shape
    nothing = np.full((n, width), -1, dtype=np.int32)
    return order_candidates(
        utility,
        vectors,
        nothing if categories is None else np.array(categories, dtype=np.int32),
        nothing if creators is None else np.array(creators, dtype=np.int32),
        np.broadcast_to(np.asarray(k, dtype=np.int32), n),
        np.array(seeds if seeds is not None else range(n), dtype=np.uint64),
        policy,
    )


def a_batch(seed: int, n: int = 6, width: int = 12) -> tuple[FloatArray, FloatArray]:
    """Utilities, some of them not finite, and vectors."""
    rng = np.random.default_rng(seed)
    utility = rng.normal(size=(n, width)).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        utility[rng.random(utility.shape) < 0.07] = value
    return utility, rng.normal(size=(n, width, 5)).astype(np.float32)


policies = st.builds(
    OrderingSettings,
    pool=st.integers(1, 15),
    diversity=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    max_per_category=st.integers(0, 3),
    max_per_creator=st.integers(0, 3),
    exploration=st.sampled_from([0.0, 0.1, 1.0]),
    temperature=st.sampled_from([1e-3, 0.5, 100.0]),
)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), policy=policies, k=st.integers(1, 14))
def test_a_slate_is_full_finite_and_without_repeats(
    seed: int, policy: OrderingSettings, k: int
) -> None:
    """Every finite candidate may fill a place, none twice, and nothing else is ever shown."""
    utility, vectors = a_batch(seed)
    codes = np.random.default_rng(seed + 1).integers(-1, 3, (2, *utility.shape))
    slates = order(
        utility,
        policy,
        k=k,
        vectors=vectors,
        categories=codes[0].tolist(),
        creators=codes[1].tolist(),
    )
    for request, picked in enumerate(slates.picked):
        shown = picked[picked >= 0]
        assert len(set(shown)) == len(shown) == min(k, np.isfinite(utility[request]).sum())
        assert np.isfinite(utility[request, shown]).all()
        assert (picked[len(shown) :] == -1).all()
        # A draw of next to no chance may underflow; what was shown greedily never does.
        assert (slates.propensity[request, : len(shown)] >= 0.0).all()
        assert (slates.propensity[request] <= 1.0 + 1e-6).all()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), cap=st.integers(1, 3), exploration=st.sampled_from([0.0, 0.5]))
def test_caps_hold_until_nothing_else_is_left(seed: int, cap: int, exploration: float) -> None:
    """An item over its cap is only shown where every unused item is over its cap."""
    utility, vectors = a_batch(seed)
    utility = np.nan_to_num(utility, nan=0.0, posinf=0.0, neginf=0.0)
    categories = np.random.default_rng(seed).integers(-1, 3, utility.shape)
    policy = OrderingSettings(max_per_category=cap, exploration=exploration)
    slates = order(utility, policy, k=9, vectors=vectors, categories=categories.tolist())
    for request, picked in enumerate(slates.picked):
        own = categories[request]
        counts: Counter[int] = Counter()
        left = set(range(utility.shape[1]))
        for column in picked:
            within = {c for c in left if own[c] < 0 or counts[own[c]] < cap}
            assert column in (within or left)
            counts[own[column]] += 1
            left.remove(column)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), policy=policies)
def test_a_slate_does_not_depend_on_its_neighbours(seed: int, policy: OrderingSettings) -> None:
    """A batch equals its requests one by one, each with its own length and seed."""
    utility, vectors = a_batch(seed, n=4)
    lengths = [1, 7, 3, 12]
    seeds = [5, 2**63, 0, 77]
    together = order(utility, policy, k=lengths, seeds=seeds, vectors=vectors)
    for at, length in enumerate(lengths):
        alone = order(
            utility[at : at + 1],
            policy,
            k=length,
            seeds=[seeds[at]],
            vectors=vectors[at : at + 1],
        )
        assert np.array_equal(together.picked[at, :length], alone.picked[0])
        assert np.allclose(together.propensity[at, :length], alone.propensity[0], atol=1e-6)
        assert (together.picked[at, length:] == -1).all()


def reference_chances(
    above: tuple[int, ...],
    utility: FloatArray,
    vectors: FloatArray,
    categories: list[int],
    policy: OrderingSettings,
) -> dict[int, float]:
    """P(item | items above) written out for one request with a pool of everything."""
    finite = [c for c in range(len(utility)) if np.isfinite(utility[c])]
    low, high = min(utility[finite]), max(utility[finite])
    unused = [c for c in finite if c not in above]
    within = [
        c
        for c in unused
        if sum(categories[a] == categories[c] for a in above) < policy.max_per_category
    ]
    feasible = within or unused
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def marginal(column: int) -> float:
        relevance = (utility[column] - low) / (high - low)
        closest = max((float(unit[column] @ unit[a]) for a in above), default=0.0)
        return float((1 - policy.diversity) * relevance - policy.diversity * closest)

    greedy = max(feasible, key=marginal)
    weights = {c: np.exp(float(utility[c]) / policy.temperature) for c in feasible}
    total = sum(weights.values())
    return {
        c: policy.exploration * float(weight / total) + (1 - policy.exploration) * (c == greedy)
        for c, weight in weights.items()
    }


def many_slates(
    n: int = 20_000, exploration: float = 0.6
) -> tuple[NDArray[np.int32], FloatArray, dict[str, object]]:
    """One request of five candidates, one not finite, ordered under many seeds."""
    rng = np.random.default_rng(3)
    utility = rng.normal(size=5).astype(np.float32)
    utility[2] = np.nan
    vectors = rng.normal(size=(5, 3)).astype(np.float32)
    categories = [0, 0, 0, 1, 0]
    policy = OrderingSettings(
        diversity=0.4, exploration=exploration, temperature=3.0, max_per_category=1
    )
    slates = order(
        np.tile(utility, (n, 1)),
        policy,
        k=3,
        vectors=np.tile(vectors, (n, 1, 1)),
        categories=[categories] * n,
    )
    setting = {
        "utility": utility,
        "vectors": vectors,
        "categories": categories,
        "policy": policy,
    }
    return slates.picked, slates.propensity, setting


def test_propensities_of_all_outcomes_sum_to_one_and_match_the_policy() -> None:
    """By enumeration: below each items-above, every outcome's propensity, and their sum."""
    picked, propensity, setting = many_slates()
    outcomes: dict[tuple[int, ...], dict[int, float]] = defaultdict(dict)
    for slate, chances in zip(picked.tolist(), propensity.tolist(), strict=True):
        for position, column in enumerate(slate):
            outcomes[tuple(slate[:position])][column] = chances[position]
    # 4 first items; below an item of category 0 the caps leave one, below the other three; each
    # of these six pairs has what is left.
    assert len(outcomes) == 1 + 4 + 6
    for above, chances in outcomes.items():
        assert sum(chances.values()) == pytest.approx(1.0, abs=1e-6)
        assert chances == pytest.approx(reference_chances(above, **setting), abs=1e-6)  # type: ignore[arg-type]


def test_propensities_match_how_often_it_happens() -> None:
    """By Monte Carlo: whole slates come as often as the product of their propensities says."""
    picked, propensity, _ = many_slates()
    counts = Counter(map(tuple, picked.tolist()))
    predicted = {
        tuple(slate): float(np.prod(chances))
        for slate, chances in zip(picked.tolist(), propensity.tolist(), strict=True)
    }
    assert sum(predicted.values()) == pytest.approx(1.0, abs=1e-6)
    for slate, chance in predicted.items():
        error = np.sqrt(chance * (1 - chance) / len(picked))
        assert abs(counts[slate] / len(picked) - chance) < 5 * error


def test_without_exploration_and_diversity_a_slate_is_score_order() -> None:
    """The plain policy is the sort, with propensity 1, and equal scores go by column."""
    utility = np.array([[0.1, 3.0, 3.0, -1.0, 2.0]], dtype=np.float32)
    slates = order(utility, OrderingSettings(diversity=0.0, exploration=0.0), k=5)
    assert slates.picked.tolist() == [[1, 2, 4, 0, 3]]
    assert slates.propensity.tolist() == [[1.0] * 5]


def test_diversity_passes_over_a_near_copy() -> None:
    """With equal directions the second best waits behind another kind of item."""
    utility = np.array([[1.0, 0.9, 0.5, 0.0]], dtype=np.float32)
    vectors = np.array([[[1, 0], [2, 0], [0, 1], [0, 0]]], dtype=np.float32)
    slates = order(utility, OrderingSettings(diversity=0.5, exploration=0.0), vectors=vectors)
    assert slates.picked[0, :2].tolist() == [0, 2]


def test_equal_seeds_give_equal_slates_and_others_differ() -> None:
    """A slate can be replayed from its seed."""
    utility = np.tile(np.linspace(0, 1, 30, dtype=np.float32), (3, 1))
    policy = OrderingSettings(exploration=1.0)
    picked = order(utility, policy, k=10, seeds=[9, 9, 10]).picked
    assert picked[0].tolist() == picked[1].tolist()
    assert picked[0].tolist() != picked[2].tolist()


def test_a_slate_longer_than_the_pool_widens_the_pool() -> None:
    """Asking for more items than the pool holds still answers them all."""
    utility = np.linspace(0, 1, 30, dtype=np.float32)[None, :]
    slates = order(utility, OrderingSettings(pool=5), k=25)
    assert (slates.picked >= 0).all()


def test_no_request_and_no_candidate_are_answered() -> None:
    """Empty batches and empty candidate lists keep their shapes."""
    empty = order(np.empty((0, 4), dtype=np.float32), OrderingSettings(), k=[], seeds=[])
    assert empty.picked.shape == (0, 0)
    bare = order(np.empty((2, 0), dtype=np.float32), OrderingSettings(), k=3)
    assert bare.picked.tolist() == [[-1] * 3] * 2


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    """The compiled loops check no bounds."""
    utility, k = np.zeros((2, 3), np.float32), np.full(2, 2, np.int32)
    rows, seeds = np.zeros((2, 3), np.int32), np.zeros(2, np.uint64)
    facts = ItemFacts.nothing(4)
    with pytest.raises(ValueError, match="do not fit"):
        order_slates(utility, rows[:, :2], facts, k, seeds, OrderingSettings())
    with pytest.raises(ValueError, match="do not fit"):
        order_slates(utility, rows, facts, k[:1], seeds, OrderingSettings())
    with pytest.raises(ValueError, match="beyond the 4 items"):
        order_slates(utility, rows + 4, facts, k, seeds, OrderingSettings())
