"""What slates are like can hold a rollout and never abort it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.rollouts.deciding.rollout_plan import PLAN_NAMES, built_in
from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.comparison import Verdict
from recsys.evidence.judgement import judge
from recsys.evidence.metric_rules import METRICS, Role
from recsys.stores.evidence.evidence_sums import LatencyHistogram

SIGNALS = ("diversity", "novelty")
JUDGED = [METRICS[name] for name in ("error_rate", "ctr", *SIGNALS)]
N_USERS = 2_000


def an_arm(variant: str, seed: int, scale: float = 1.0) -> ArmSample:
    """Users of 20 slates, half of which say what they are like; `scale` times as varied."""
    rng = np.random.default_rng(seed)
    one = np.ones(N_USERS)
    requests = 20.0 * N_USERS
    users = {
        "one": one, "slates": 20 * one, "shown": 200 * one,
        "engaged_items": rng.poisson(16 * rng.gamma(40, 1 / 40, N_USERS)).astype(np.float64),
        "diversity": scale * rng.normal(6, 0.5, N_USERS), "diversity_slates": 10 * one,
        "novelty": scale * rng.normal(110, 9, N_USERS), "novelty_slates": 10 * one,
    }  # fmt: skip
    counts = {"requests": requests, "answered": requests, "errors": 0.0, "slates": requests}
    return ArmSample(variant, variant, users, None, counts, LatencyHistogram({24: int(requests)}))


@pytest.mark.parametrize("seed", range(12))
def test_equal_bundles_pass_with_the_signals_of_lists(seed: int) -> None:
    """Their intervals hold no loss, and what may abort keeps its alpha."""
    arms = an_arm("baseline", 2 * seed), an_arm("canary", 2 * seed + 1)
    found = judge(JUDGED, *arms, alpha=0.05, min_users=100, min_requests=500)
    assert found.verdict is not Verdict.FAIL
    assert {one.metric: one.verdict for one in found.comparisons if one.metric in SIGNALS} == (
        dict.fromkeys(SIGNALS, Verdict.PASS)
    )
    without = judge(JUDGED[:2], *arms, alpha=0.05, min_users=100, min_requests=500)
    assert without.comparisons == found.comparisons[:2]


def test_lists_of_one_kind_hold_and_do_not_abort() -> None:
    """However large the loss is."""
    arms = an_arm("baseline", 1), an_arm("canary", 2, scale=0.01)
    found = judge(JUDGED, *arms, alpha=0.05, min_users=100, min_requests=500)
    assert [one.verdict for one in found.comparisons[2:]] == [Verdict.FAIL] * 2
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.deciding in {"ctr", *SIGNALS}


def test_slates_that_say_nothing_of_themselves_are_not_judged() -> None:
    """Neither held nor aborted where gateways are of an earlier release."""
    nothing = {f"{name}_slates": np.zeros(N_USERS) for name in SIGNALS}
    nothing |= {name: np.zeros(N_USERS) for name in SIGNALS}
    arms = [
        replace(arm, users={**arm.users, **nothing})
        for arm in (an_arm("baseline", 1), an_arm("canary", 2))
    ]
    found = judge(JUDGED, *arms, alpha=0.05, min_users=100, min_requests=500)
    assert [one.verdict for one in found.comparisons[2:]] == [Verdict.INCONCLUSIVE] * 2
    assert found.deciding not in SIGNALS


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_no_built_in_plan_lets_them_abort(name: str) -> None:
    """They are signals at every step that names them."""
    plan = built_in(name)
    roles = {
        rule.role for step in range(len(plan.steps)) for rule in plan.rules_of(step)
        if rule.name in SIGNALS
    }  # fmt: skip
    assert roles <= {Role.SIGNAL}
