"""The lift of slates nobody saw, against simulated worlds whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.off_policy.ratio_estimate import Bootstrap, Estimate
from recsys.off_policy.weight_support import SupportRules, ThinSupport
from train_app.shadows.lift_report import LiftReport
from train_app.shadows.shadow_value import (
    AT_LEAST,
    AT_MOST,
    CLIPPED,
    EXAMINED,
    LIVE,
    NORMALISED,
    PairedSlates,
    ShadowValue,
    value_shadow,
    weigh,
)

N_ITEMS, N_POSITIONS = 6, 3
ATTRACTION = np.array([0.05, 0.1, 0.15, 0.25, 0.35, 0.5])
LIVE_SCORES = np.array([1.6, 1.0, 1.2, 0.6, 0.3, 0.0])
SHADOW_SCORES = LIVE_SCORES[::-1] * 1.0
DCG = 1.0 / np.log2(np.arange(N_POSITIONS) + 2.0)
STEEP = np.array([1.0, 0.5, 0.1])
QUICK = Bootstrap(n_resamples=200)
LENIENT = SupportRules(min_ess=50.0, max_mean_errors=1e9, max_mean_gap=0.1)


def drawn(
    scores: NDArray[np.float64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Slates item by item from a softmax over what is left, with the chance of each draw."""
    slates = np.argsort(-(scores + rng.gumbel(size=(n, N_ITEMS))), axis=1)[:, :N_POSITIONS]
    worth = np.exp(scores)
    taken = np.cumsum(worth[slates], axis=1) - worth[slates]
    return slates, worth[slates] / (worth.sum() - taken)


def true_value(scores: NDArray[np.float64], examined: NDArray[np.float64]) -> float:
    """The expected reward of a slate, over every slate there is."""
    worth, value = np.exp(scores), 0.0
    for slate in permutations(range(N_ITEMS), N_POSITIONS):
        chance, left = 1.0, float(worth.sum())
        for item in slate:
            chance, left = chance * worth[item] / left, left - worth[item]
        value += chance * float((examined * ATTRACTION[list(slate)]).sum())
    return value


def a_log(n: int, examined: NDArray[np.float64], seed: int) -> PairedSlates:
    """Requests of 400 users, answered by the live policy, with the shadow's own draw beside."""
    rng = np.random.default_rng(seed)
    live, propensities = drawn(LIVE_SCORES, n, rng)
    shadow, _ = drawn(SHADOW_SCORES, n, rng)
    rewards = (rng.random((n, N_POSITIONS)) < examined * ATTRACTION[live]).astype(np.float64)
    return PairedSlates(live, shadow, propensities, rewards, rng.integers(0, 400, n))


def by_name(value: ShadowValue) -> dict[str, Estimate]:
    """The estimates by what they are of."""
    return {one.name: one for one in value.estimates}


def test_the_truth_lies_in_the_intervals_and_a_naive_mean_does_not() -> None:
    """Where places count as in DCG the value itself is met, self-normalised and clipped too."""
    log = a_log(20_000, DCG, seed=1)
    value = value_shadow(log, bootstrap=QUICK)
    truth, found = true_value(SHADOW_SCORES, DCG), by_name(value)
    for name in (EXAMINED, NORMALISED, CLIPPED):
        assert found[name].low <= truth <= found[name].high, name
        assert found[name].high - found[name].low < 0.25 * truth
    assert found[LIVE].low <= true_value(LIVE_SCORES, DCG) <= found[LIVE].high
    same = log.live == log.shadow
    naive = sum(log.rewards[same[:, k], k].mean() for k in range(N_POSITIONS))
    assert abs(naive - truth) > 0.2 * truth
    assert value.refusal is None
    assert all(lift.low > 0.0 for lift in value.lifts)


@pytest.mark.parametrize("examined", [DCG, STEEP, np.ones(N_POSITIONS)])
def test_the_bounds_hold_however_places_are_looked_at(examined: NDArray[np.float64]) -> None:
    """As long as nobody looks at a lower place more than at a higher one."""
    truth = true_value(SHADOW_SCORES, examined)
    found = by_name(value_shadow(a_log(12_000, examined, seed=2), bootstrap=QUICK))
    assert found[AT_LEAST].low <= truth <= found[AT_MOST].high
    assert found[AT_LEAST].value <= found[EXAMINED].value <= found[AT_MOST].value


def test_the_estimate_is_unbiased_over_many_logs() -> None:
    """Its mean over logs is the truth within four standard errors."""
    values = [
        weights.matched * log.rewards + weights.discounts * weights.moved_rewards
        for seed in range(20)
        for log in [a_log(2_000, DCG, seed)]
        for weights in [weigh(log)]
    ]
    means = np.array([one.sum(axis=1).mean() for one in values])
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - true_value(SHADOW_SCORES, DCG)) < 4.0 * error


def test_a_shadow_that_answers_alike_has_no_lift() -> None:
    """Every estimate is the live mean where a deterministic policy meets itself."""
    log = a_log(2_000, DCG, seed=3)
    same = PairedSlates(log.live, log.live, np.ones_like(log.propensities), log.rewards, log.users)
    value = value_shadow(same, bootstrap=QUICK)
    assert {round(one.value, 12) for one in value.estimates} == {
        round(float(log.rewards.sum(axis=1).mean()), 12)
    }
    assert all(lift.value == 0.0 for lift in value.lifts)
    assert (value.overlap_share, value.moved_share, value.unsupported_share) == (1.0, 0.0, 0.0)


def test_thin_support_refuses_and_says_how_many_more() -> None:
    """Both sizes grow with the requests, so the number follows from them."""
    value = value_shadow(a_log(500, DCG, seed=4), bootstrap=QUICK)
    assert value.refusal is not None
    assert value.n_more is not None
    assert 500 < value.n_more < 50_000
    assert f"about {value.n_more:,} more requests" in str(value.refusal)
    assert value_shadow(a_log(500, DCG, seed=4), LENIENT, QUICK).refusal is None


def test_items_the_live_policy_never_shows_refuse() -> None:
    """No number of requests makes up for what is never shown."""
    log = a_log(3_000, DCG, seed=5)
    strange = PairedSlates(log.live, log.shadow + N_ITEMS, log.propensities, log.rewards, log.users)
    value = value_shadow(strange, bootstrap=QUICK)
    assert value.unsupported_share == 1.0
    assert value.n_more is None
    with pytest.raises(ThinSupport, match=r"0\.0% of 3,000 requests have an item at the same"):
        raise value.refusal or AssertionError("not refused")


def test_slates_of_different_lengths_are_compared_as_far_as_the_live_one() -> None:
    """Where either has ended there is nothing to weigh."""
    slates = PairedSlates(
        live=np.array([[7, 8, -1], [7, 8, 9]]),
        shadow=np.array([[7, 9, 8], [8, -1, -1]]),
        propensities=np.array([[0.5, 1.0, 1.0], [0.5, 1.0, 1.0]]),
        rewards=np.ones((2, 3)),
        users=np.array([1, 2]),
    )
    weights = weigh(slates)
    assert weights.matched.tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert not weights.moved.any()
    assert weights.is_filled.tolist() == [[True, True, False], [True, False, False]]


def test_an_item_that_stood_higher_up_brings_what_it_earned_there() -> None:
    """Less as DCG discounts its place; a loss bounds from below, a gain from above."""
    slates = PairedSlates(
        live=np.array([[7, 8]]),
        shadow=np.array([[9, 7]]),
        propensities=np.full((1, 2), 0.5),
        rewards=np.array([[-2.0, 0.0]]),
        users=np.array([1]),
    )
    found = by_name(value_shadow(slates, LENIENT, Bootstrap(n_resamples=0)))
    assert found[AT_LEAST].value == -2.0
    assert found[AT_MOST].value == 0.0
    assert found[EXAMINED].value == pytest.approx(-2.0 * np.log2(2) / np.log2(3))


@pytest.mark.parametrize("refused", [True, False])
def test_the_report_says_what_the_figures_come_to(refused: bool) -> None:
    """A refused one shows no table of values that would be used all the same."""
    value = value_shadow(a_log(500 if refused else 20_000, DCG, seed=6), bootstrap=QUICK)
    report = LiftReport("s1", ("b2",), "click", value, {"failed": 3})
    text, document = report.text(), report.as_dict()
    assert ("95 % interval" in text) is not refused
    assert ("refused" if refused else "would have earned more: between +") in text
    assert "3 failed" in text
    assert document["is_supported"] is not refused
    assert document["meaning"] == report.meaning()


def test_a_lift_over_nothing_is_said_to_be_unknown() -> None:
    """Live slates that earn nothing in sum have no relative difference; no figure is made up."""
    value = value_shadow(a_log(20_000, DCG, seed=6), bootstrap=QUICK)
    lifts = tuple(replace(one, value=np.nan, low=-np.inf, high=np.nan) for one in value.lifts)
    report = LiftReport("s1", ("b2",), "click", replace(value, lifts=lifts), {})
    assert "no lift can be told" in report.meaning()
    assert "[-, -]" in report.text()
    assert not any(word in report.text() for word in ("nan", "inf%"))
