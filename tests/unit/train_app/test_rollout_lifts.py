"""Predicted against realised lift of rollouts: from manifests, from evidence, and together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.off_policy.lift_calibration import Lift, LiftPair, calibrate_lifts, relative_lift
from recsys.stores.evidence.evidence_sums import UserColumns
from train_app.off_policy.rollout_lifts import predicted_lift, realised_lift


def users(*arms: tuple[str, str, int, float]) -> UserColumns:
    """Evidence of arms: bundle, variant, users of ten slates each, share of engaged slates."""
    names = tuple(sorted((bundle, variant, "") for bundle, variant, *_ in arms))
    ids: list[int] = []
    engaged: list[int] = []
    rng = np.random.default_rng(0)
    for bundle, variant, n_users, rate in arms:
        ids += [names.index((bundle, variant, ""))] * n_users
        engaged += rng.binomial(10, rate, n_users).tolist()
    sums = {"slates": np.full(len(ids), 10), "engaged_slates": np.array(engaged, np.int64)}
    return UserColumns(np.arange(len(ids)), np.array(ids, np.int64), names, sums)


def pair(predicted: float, realised: float) -> LiftPair:
    """A rollout with these lifts."""
    return LiftPair("new", "old", Lift(predicted), "gate", Lift(realised), "canary")


def test_calibration_says_how_predictions_came_out() -> None:
    """Three rollouts that realised half of what was predicted, one of them the other way round."""
    found = calibrate_lifts([pair(0.2, 0.1), pair(0.1, 0.05), pair(-0.1, 0.05)])
    assert found.n_rollouts == 3
    assert found.same_sign == pytest.approx(2 / 3)
    assert found.mean_gap == pytest.approx(0.0)
    assert found.mean_distance == pytest.approx(0.1)
    assert found.slope == pytest.approx((0.02 + 0.005 - 0.005) / 0.06)
    assert calibrate_lifts([pair(0.2, 0.1)]).slope is None
    assert calibrate_lifts([]).as_dict()["mean_gap"] is None


def test_the_interval_of_a_lift_holds_the_true_one() -> None:
    """A ratio of two rates, by the delta method; without errors it has no bounds."""
    found = relative_lift(0.33, 0.005, 0.30, 0.005)
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.1 < found.high
    assert 0.04 < found.high - found.value < 0.06
    assert relative_lift(0.3, float("nan"), 0.2, 0.1) == Lift(0.3 / 0.2 - 1.0)
    assert relative_lift(0.3, 0.1, 0.0, 0.1) is None


def test_a_canary_is_compared_with_its_baseline() -> None:
    """Users of the same days; the rest of stable's is left alone where there is a baseline."""
    evidence = users(
        ("new", "canary", 400, 0.33), ("old", "baseline", 400, 0.30), ("old", "stable", 400, 0.9)
    )
    found = realised_lift(evidence, "new", "old")
    assert found is not None
    lift, how = found
    assert how.startswith("canary")
    assert lift.low is not None
    assert lift.high is not None
    assert lift.low < 0.1 < lift.high


def test_without_a_canary_the_days_before_are_what_there_is() -> None:
    """An instant rollout; a bundle nobody saw has no lift."""
    evidence = users(("new", "stable", 50, 0.4), ("old", "stable", 50, 0.2))
    found = realised_lift(evidence, "new", "old")
    assert found is not None
    assert found[1].startswith("before and after")
    assert 0.6 < found[0].value < 1.6
    assert realised_lift(evidence, "other", "old") is None


def test_a_prediction_is_read_from_the_manifest_or_is_none() -> None:
    """The gate's difference as a share of stable."""
    metrics: dict[str, Any] = {
        "methods": {"stable page": {"NDCG@10": {"mean": 0.2, "low": 0.1, "high": 0.3}}},
        "gate": {"metric": "ndcg@10", "versus_stable": {"mean": 0.02, "low": -0.01, "high": 0.05}},
    }
    found = predicted_lift(metrics)
    assert found is not None
    assert found[1] == "gate, ndcg@10"
    assert found[0] == Lift(pytest.approx(0.1), pytest.approx(-0.05), pytest.approx(0.25))
    assert predicted_lift({}) is None
    assert predicted_lift({"gate": {"metric": "ndcg@10", "versus_stable": None}}) is None
    assert predicted_lift({**metrics, "methods": {}}) is None
