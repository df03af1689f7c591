"""Ratios told from a log alone equal those of the exact policies, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.off_policy.reordering import NotInLog, PolicyRatios, SlateRecords, reordered
from recsys.settings import OrderingSettings
from tests.slates_for_tests import candidate_propensities, order_candidates

N_SLATES, N_CANDIDATES = 30, 12

loggings = st.builds(
    OrderingSettings,
    pool=st.just(8),
    diversity=st.sampled_from([0.0, 0.3]),
    max_per_category=st.sampled_from([0, 2]),
    exploration=st.sampled_from([0.05, 0.3, 0.5, 1.0]),
    temperature=st.sampled_from([0.3, 1.0]),
)


def both_ways(
    seed: int, logging: OrderingSettings, target: OrderingSettings
) -> tuple[PolicyRatios, np.ndarray]:
    """Ratios as the log tells them, and those of the two policies on the whole pool."""
    rng = np.random.default_rng(seed)
    utility = rng.normal(size=(N_SLATES, N_CANDIDATES)).astype(np.float32)
    vectors = rng.normal(size=(N_SLATES, N_CANDIDATES, 4)).astype(np.float32)
    codes = rng.integers(-1, 3, utility.shape).astype(np.int32)
    k = rng.integers(1, 6, N_SLATES).astype(np.int32)
    seeds = np.arange(N_SLATES, dtype=np.uint64) + np.uint64(seed)
    slates = order_candidates(utility, vectors, codes, codes, k, seeds, logging)
    shown = slates.picked >= 0
    scores = np.take_along_axis(utility, np.maximum(slates.picked, 0), axis=1)
    rest = utility.copy()
    rows, positions = np.nonzero(shown)
    rest[rows, slates.picked[rows, positions]] = -np.inf
    records = SlateRecords(
        propensities=np.where(shown, slates.propensity, 1.0).astype(np.float64),
        scores=np.where(shown, scores, -np.inf).astype(np.float64),
        best_unshown=rest.max(axis=1).astype(np.float64),
        lengths=shown.sum(axis=1),
    )
    exact = [
        candidate_propensities(utility, vectors, codes, codes, slates.picked, policy)
        for policy in (logging, target)
    ]
    ratios = np.where(shown, exact[1] / np.where(shown, exact[0], 1.0), 1.0)
    return reordered(records, logging, target), ratios


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), logging=loggings, exploration=st.sampled_from([0.0, 0.1, 0.9]))
def test_another_exploration_is_told_exactly(
    seed: int, logging: OrderingSettings, exploration: float
) -> None:
    """How often a position is drawn is all that differs, whatever diversity and caps do."""
    target = logging.model_copy(update={"exploration": exploration})
    found, exact = both_ways(seed, logging, target)
    # Where everything was drawn at random, the log does not say what diversity would have done.
    if found.is_told.all():
        np.testing.assert_allclose(found.ratios, exact, rtol=1e-3, atol=1e-4)
    else:
        assert logging.exploration > 0.5


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), logging=loggings, exploration=st.sampled_from([0.0, 0.1]))
def test_ordering_by_score_is_told_exactly_without_caps(
    seed: int, logging: OrderingSettings, exploration: float
) -> None:
    """The best item that was left is either in the slate or the best one not shown."""
    logging = logging.model_copy(update={"max_per_category": 0})
    target = logging.model_copy(update={"diversity": 0.0, "exploration": exploration})
    found, exact = both_ways(seed, logging, target)
    assert found.is_told.all()
    np.testing.assert_allclose(found.ratios, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 2.0},
        {"diversity": 0.6},
        {"pool": 20},
        {"max_per_creator": 1},
    ],
)
def test_what_takes_the_whole_pool_is_refused_by_name(change: dict[str, float]) -> None:
    """Every other setting's effect depends on scores or vectors that no log holds."""
    logging = OrderingSettings()
    name = next(iter(change))
    with pytest.raises(NotInLog, match=rf"ordering\.{name} .* cannot be evaluated"):
        both_ways(0, logging, logging.model_copy(update=change))


def test_a_log_without_exploration_tells_of_no_draw() -> None:
    """It holds greedy slates only: itself is told, any exploration is not."""
    logging = OrderingSettings(exploration=0.0)
    found, _ = both_ways(0, logging, logging.model_copy(update={"temperature": 3.0}))
    assert (found.ratios == 1.0).all()
    with pytest.raises(NotInLog, match=r"ordering\.exploration 0\.1"):
        both_ways(0, logging, logging.model_copy(update={"exploration": 0.1}))


def test_equal_utilities_and_an_unlogged_rest_are_not_guessed() -> None:
    """Which of two equal items comes first, and what else there was, the log does not say."""
    logging = OrderingSettings(diversity=0.2, exploration=0.1)
    records = SlateRecords(
        propensities=np.full((3, 2), 0.95),
        scores=np.array([[2.0, 1.0], [1.0, 1.0], [2.0, 1.0]]),
        best_unshown=np.array([0.5, 0.5, np.nan]),
        lengths=np.array([2, 2, 2]),
    )
    target = logging.model_copy(update={"diversity": 0.0})
    assert reordered(records, logging, target).is_told.tolist() == [True, False, False]
