"""Values of ordering policies from slates of another, in a world whose truth can be played."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.off_policy.ratio_estimate import Bootstrap
from recsys.off_policy.reordering import NotInLog, SlateRecords
from recsys.off_policy.weight_support import SupportRules, ThinSupport
from recsys.settings import OrderingSettings
from tests.slates_for_tests import order_candidates
from train_app.off_policy.logged_slates import LoggedSlates
from train_app.off_policy.policy_value import on_policy_value, ordering_value

N_CANDIDATES, N_POSITIONS = 10, 3
LOGGING = OrderingSettings(pool=8, diversity=0.2, exploration=0.3, temperature=0.5)
QUICK = Bootstrap(n_resamples=100)


def served(policy: OrderingSettings, n_slates: int, seed: int) -> LoggedSlates:
    """Slates of a policy for users who click by utility, less far down and after a click."""
    rng = np.random.default_rng(3)
    utility = rng.normal(size=(n_slates, N_CANDIDATES)).astype(np.float32)
    vectors = rng.normal(size=(n_slates, N_CANDIDATES, 4)).astype(np.float32)
    nothing = np.full(utility.shape, -1, np.int32)
    k = np.full(n_slates, N_POSITIONS, np.int32)
    seeds = np.arange(n_slates, dtype=np.uint64) + np.uint64(1_000_003 * seed)
    slates = order_candidates(utility, vectors, nothing, nothing, k, seeds, policy)
    scores = np.take_along_axis(utility, slates.picked, axis=1).astype(np.float64)
    rest = utility.copy()
    np.put_along_axis(rest, slates.picked, -np.inf, axis=1)
    luck = np.random.default_rng([4, seed]).random(scores.shape)
    chance = 1.0 / (1.0 + np.exp(1.0 - 1.5 * scores)) / np.arange(1, N_POSITIONS + 1)
    clicks = luck < chance
    before = np.cumsum(clicks, axis=1) - clicks
    clicks &= (before == 0) | (luck < chance / 2)
    records = SlateRecords(
        slates.propensity.astype(np.float64),
        scores,
        rest.max(axis=1).astype(np.float64),
        np.full(n_slates, N_POSITIONS),
    )
    return LoggedSlates(
        records,
        clicks.astype(np.float64),
        np.array([f"e{n}" for n in range(n_slates)]),
        np.arange(n_slates) // 2,
        np.zeros(n_slates, np.int64),
        ("b1",),
        {},
    )


@pytest.mark.parametrize(
    "change",
    [{"exploration": 0.0}, {"exploration": 0.8}, {"diversity": 0.0, "exploration": 0.1}],
)
def test_the_estimate_is_what_the_policy_earns_when_it_is_played(change: dict[str, float]) -> None:
    """The truth is the mean over many plays; the estimate is within four of its errors."""
    log = served(LOGGING, 3_000, seed=0)
    target = LOGGING.model_copy(update=change)
    truth = np.mean([served(target, 3_000, seed).rewards.sum(axis=1).mean() for seed in (1, 2)])
    rules = SupportRules(min_ess=100.0)
    found = ordering_value("target", log, {"b1": LOGGING}, change, rules, QUICK)
    assert found.refusal is None
    for one in found.estimates:
        assert abs(one.value - truth) < 4.0 * one.error + 0.02, one.name
    assert found.lift is not None
    earned = on_policy_value(log, QUICK).value
    assert found.lift.value == pytest.approx(found.estimates[1].value / earned - 1.0)


def test_the_logging_policy_itself_earns_what_it_earned() -> None:
    """Sanity: the same settings give the mean of the log, a lift of nothing, and full support."""
    log = served(LOGGING, 1_500, seed=0)
    found = ordering_value("itself", log, {"b1": LOGGING}, {}, bootstrap=QUICK)
    mean = on_policy_value(log, QUICK)
    assert mean.value == pytest.approx(log.rewards.sum(axis=1).mean())
    assert all(one.value == pytest.approx(mean.value) for one in found.estimates)
    assert found.lift is not None
    assert (found.lift.low, found.lift.high) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert found.support is not None
    assert found.support.figures.ess == 1_500


def test_thin_support_is_refused_with_its_figures() -> None:
    """Few slates are worth few: the estimate is kept for inspection, the verdict says no."""
    log = served(LOGGING, 300, seed=0)
    found = ordering_value("greedy", log, {"b1": LOGGING}, {"exploration": 0.0}, bootstrap=QUICK)
    assert isinstance(found.refusal, ThinSupport)
    assert "effective sample size of 300 rounds" in str(found.refusal)
    assert found.as_dict()["is_supported"] is False
    lenient = SupportRules(min_ess=10.0, min_rewarded_ess=5.0)
    assert (
        ordering_value("greedy", log, {"b1": LOGGING}, {"exploration": 0.0}, lenient, QUICK).refusal
        is None
    )


def test_what_the_log_does_not_hold_is_refused() -> None:
    """A temperature, and an order of score where nothing unshown was logged."""
    log = served(LOGGING, 200, seed=0)
    warmer = ordering_value("warmer", log, {"b1": LOGGING}, {"temperature": 2.0})
    assert isinstance(warmer.refusal, NotInLog)
    log.records.best_unshown[:50] = np.nan
    by_score = ordering_value("by score", log, {"b1": LOGGING}, {"diversity": 0.0})
    assert "cannot be told for 25.0% of 200 slates" in str(by_score.refusal)
    assert by_score.estimates == ()
