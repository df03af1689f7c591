"""The traffic plan: sticky, exact shares, and nobody is taken back from a growing canary."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.traffic import BASELINE, CANARY, STABLE, Arm, TrafficPlan

USERS = [f"user-{n}" for n in range(2000)]


def a_plan(canary: float, baseline: float = 0.0, epoch: int = 1) -> TrafficPlan:
    arms = (
        Arm(STABLE, "b1", max(0.0, 1.0 - canary - baseline)),
        Arm(BASELINE, "b1", baseline),
        Arm(CANARY, "b2", canary),
    )
    return TrafficPlan(epoch=epoch, salt="s", arms=arms)


def test_one_bundle_takes_every_user() -> None:
    """A plan of one arm is the plan outside rollouts."""
    plan = TrafficPlan.single("b1", epoch=3, salt="s")
    assert plan.bundle_ids == ("b1",)
    assert {plan.assign(user).bundle_id for user in USERS} == {"b1"}


@settings(deadline=None, max_examples=20)
@given(shares=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), extra=st.floats(0, 1))
def test_growing_the_canary_never_takes_a_user_back(
    shares: tuple[float, float], extra: float
) -> None:
    """Whoever has the canary keeps it, and only stable users move."""
    canary, baseline = shares
    grown = a_plan(canary + extra * (1.0 - canary - baseline), baseline, epoch=2)
    before = a_plan(canary, baseline)
    for user in USERS[:300]:
        first, second = before.assign(user).variant, grown.assign(user).variant
        assert first == second or (first, second) == (STABLE, CANARY)


def test_users_spread_by_the_shares() -> None:
    """Within five standard errors of the plan, and the same on every call."""
    plan = a_plan(canary=0.2, baseline=0.2)
    counts = Counter(plan.assign(user).variant for user in USERS)
    for variant, share in ((CANARY, 0.2), (BASELINE, 0.2), (STABLE, 0.6)):
        error = (share * (1 - share) / len(USERS)) ** 0.5
        assert abs(counts[variant] / len(USERS) - share) < 5 * error
    assert [plan.assign(user) for user in USERS] == [plan.assign(user) for user in USERS]


def test_another_salt_draws_other_users() -> None:
    """Two rollouts do not keep hitting the same people."""
    plan, other = a_plan(0.5), TrafficPlan(1, "t", a_plan(0.5).arms)
    assert any(plan.assign(user) != other.assign(user) for user in USERS[:50])


def test_an_arm_without_share_gets_nobody() -> None:
    """A canary at zero, or a stable at zero, answers no one."""
    assert {a_plan(0.0).assign(user).variant for user in USERS} == {STABLE}
    assert {a_plan(1.0).assign(user).variant for user in USERS} == {CANARY}


@settings(deadline=None, max_examples=30)
@given(canary=st.floats(0, 0.5), baseline=st.floats(0, 0.5), epoch=st.integers(0, 10**9))
def test_a_plan_survives_json(canary: float, baseline: float, epoch: int) -> None:
    """As an object and as text."""
    plan = a_plan(canary, baseline, epoch)
    assert TrafficPlan.from_json(plan.to_json()) == plan
    assert TrafficPlan.from_json(json.dumps(plan.to_json())) == plan


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ((Arm(STABLE, "b1", 0.5), Arm(CANARY, "b2", 0.4)), "sum to 0.9"),
        ((Arm(STABLE, "b1", 1.5), Arm(CANARY, "b2", -0.5)), "0 or more"),
        ((Arm(STABLE, "b1", 0.5), Arm(STABLE, "b2", 0.5)), "repeat"),
        ((Arm("champion", "b1", 1.0),), "not known"),
        ((Arm(STABLE, "", 1.0),), "no bundle"),
        ((Arm(STABLE, "b1", float("nan")),), "sum to nan"),
        ((), "sum to 0"),
    ],
)
def test_an_impossible_plan_is_refused(arms: tuple[Arm, ...], said: str) -> None:
    """A plan that exists is valid."""
    with pytest.raises(ConfigError, match=said):
        TrafficPlan(epoch=1, salt="s", arms=arms)


@pytest.mark.parametrize("document", ["{", "[]", '{"epoch": 1, "salt": "s"}', b"\xff"])
def test_a_document_that_is_no_plan_says_what_was_expected(document: str | bytes) -> None:
    """A damaged control store is a named error."""
    with pytest.raises(ConfigError, match="expected epoch, salt and arms"):
        TrafficPlan.from_json(document)
