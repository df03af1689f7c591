"""The gate's decisions: what passes, what is refused, and what the refusal says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recsys.errors import DataRefused
from recsys.learning_settings import GateSettings
from train_app.evaluation.gate import GateDecision, Measured, decide
from train_app.evaluation.gate_guardrails import Guarded, PageFacts

STRICTLY = GateSettings(against_stable="shown_not_worse")
UNCOMPARED = GateSettings(against_stable="off")


def decision_for(
    page: float,
    popularity: float = 0.1,
    stable: float | None = None,
    *,
    n: int = 100,
    comparable: bool = True,
    gate: GateSettings | None = None,
) -> GateDecision:
    """The decision on constant metrics."""
    measured = Measured(
        page=np.full(n, page),
        popularity=np.full(n, popularity),
        users=np.arange(n),
        stable=None if stable is None else np.full(n, stable),
        comparable=np.full(n, comparable),
    )
    return decide(measured, gate or GateSettings(), seed=0)


def test_a_page_better_than_popularity_passes() -> None:
    """Equal to the bound is enough."""
    for page in (0.2, 0.1):
        decision = decision_for(page)
        decision.require_passed()
        assert decision.passed


def test_a_page_worse_than_popularity_is_refused_with_figures_and_remedy() -> None:
    """The sentence holds figure, bound and what to change; the exit code is 6."""
    decision = decision_for(0.09)
    assert not decision.passed
    with pytest.raises(DataRefused, match=r"0\.0900, at least 0\.1000.*min_ratio_popularity") as e:
        decision.require_passed()
    assert e.value.exit_code == 6
    assert "nothing was published" in str(e.value)


def test_the_ratio_to_popularity_is_a_setting() -> None:
    """Twice popularity may be demanded, or nothing."""
    assert not decision_for(0.15, gate=GateSettings(min_ratio_popularity=2.0)).passed
    assert decision_for(0.01, gate=GateSettings(min_ratio_popularity=0.0)).passed


def test_a_page_may_drop_a_little_below_the_stable_bundle() -> None:
    """Five per cent by default; the paired difference is told."""
    assert decision_for(0.191, stable=0.2).passed
    refused = decision_for(0.189, stable=0.2)
    assert not refused.passed
    assert refused.versus_stable is not None
    assert refused.versus_stable.mean == pytest.approx(-0.011)
    assert [rule.passed for rule in refused.rules] == [True, True, False]
    assert refused.least_drop_shown == pytest.approx(0.05)
    assert decision_for(0.01, popularity=0.0, stable=0.2, gate=UNCOMPARED).passed


def noisy(n: int, drop: float, seed: int = 0) -> Measured:
    """A metric that is 0 or 1 like a hit, and a new bundle that misses `drop` of stable's hits."""
    rng = np.random.default_rng(seed)
    stable = (rng.random(n) < 0.2).astype(float)
    page = np.where(rng.random(n) < 0.5, rng.random(n) < 0.2, stable * (rng.random(n) >= drop))
    return Measured(page, np.zeros(n), np.arange(n) % 400, stable)


def test_a_drop_that_chance_explains_is_let_through_and_said() -> None:
    """Where few engagements can be compared, only a large drop is refused."""
    few, many = noisy(100, 0.2), noisy(20_000, 0.2)
    assert few.stable is not None
    assert few.page.mean() < 0.95 * few.stable.mean()
    decision = decide(few, GateSettings(), seed=0)
    assert decision.passed
    assert decision.least_drop_shown is not None
    assert decision.least_drop_shown > 0.1
    refused = decide(many, GateSettings(), seed=0)
    assert not refused.passed
    with pytest.raises(DataRefused, match=r"minus the stable bundle's: -0\.\d+, at least -0\.0"):
        refused.require_passed()
    assert not decide(noisy(100, 0.9), GateSettings(), seed=0).passed


def test_non_inferiority_demands_data_enough_to_show_it() -> None:
    """An equal bundle passes on many engagements and not on few."""
    for n, passes in ((100, False), (50_000, True)):
        decision = decide(noisy(n, 0.0), STRICTLY, seed=0)
        assert decision.passed is passes
        assert "low end" in decision.rules[-1].sentence()


def test_a_handful_of_users_shows_no_drop() -> None:
    """However many engagements they have; a test of non-inferiority stays unproven."""
    n = 400
    for n_users, passes in ((1, True), (9, True), (10, False)):
        users = np.arange(n) % n_users
        measured = Measured(np.full(n, 0.1), np.zeros(n), users, np.full(n, 0.2))
        decision = decide(measured, GateSettings(), seed=0)
        assert decision.passed is passes
        assert not decide(measured, STRICTLY, seed=0).passed
        if passes:
            assert decision.least_drop_shown == 1.0
            assert "too few to tell" in decision.rules[-1].sentence()
            json.dumps(decision.as_dict(), allow_nan=False)


def test_a_bundle_without_pages_is_refused_where_popularity_scores_nothing() -> None:
    """Padding is worth as much as popularity there; users who have seen everything do not count."""
    n = 200
    full, empty = np.tile(np.arange(3, dtype=np.int32), (n, 1)), np.full((n, 3), -1, np.int32)

    def passes(lists: np.ndarray, has_unseen: np.ndarray | None = None) -> bool:
        tokens, is_new = np.full((3, 1), -1, np.int32), np.zeros(3, bool)
        found = Guarded(PageFacts(lists), None, np.arange(n), tokens, is_new, has_unseen)
        measured = Measured(np.zeros(n), np.zeros(n), np.arange(n), guarded=found)
        return decide(measured, GateSettings(), seed=0).passed

    some = full.copy()
    some[:20] = -1
    assert passes(full)
    assert not passes(empty)
    assert not passes(some)
    assert passes(some, (some >= 0).any(1))


def test_only_engagements_new_to_the_stable_bundle_are_compared() -> None:
    """Where it was trained on all of them the comparison decides nothing."""
    assert decision_for(0.15, stable=0.9, comparable=False).passed
    n = 100
    comparable = np.arange(n) < 50
    measured = Measured(
        page=np.where(comparable, 0.3, 0.1),
        popularity=np.full(n, 0.1),
        users=np.arange(n),
        stable=np.where(comparable, 0.3, 0.9),
        comparable=comparable,
    )
    assert decide(measured, GateSettings(), seed=0).passed


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(broken: float) -> None:
    """In the page, in popularity and in the stable bundle; and the decision is still JSON."""
    for decision in (
        decision_for(broken),
        decision_for(0.5, popularity=broken),
        decision_for(0.5, stable=broken),
    ):
        assert not decision.passed
        json.dumps(decision.as_dict(), allow_nan=False)


def test_no_data_is_refused() -> None:
    """Nothing evaluated proves nothing."""
    decision = decision_for(0.5, n=0)
    assert not decision.passed
    with pytest.raises(DataRefused, match="import more history"):
        decision.require_passed()
