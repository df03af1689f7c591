"""What an experiment's report is computed by: verdicts, segments, factors and planned sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.evidence.arm_values import arm_values
from recsys.evidence.comparison import Verdict, compare
from recsys.evidence.experiment_design import FACTORIAL_ARMS, ExperimentDesign
from recsys.evidence.experiment_verdict import judge_experiment, sample_ratio
from recsys.evidence.factorial_effects import contrast_interval, factorial_effects
from recsys.evidence.planned_size import unit_variance, users_needed
from recsys.evidence.segmented import (
    MAX_VALUES,
    alpha_share,
    by_day,
    by_segment,
    not_shown,
    users_of,
)
from tests.experiment_arms import a_plan, an_arm, some_arms

TWO = ("control", "treatment")


def test_a_design_survives_json_and_refuses_what_it_cannot_be() -> None:
    """As it was declared, so it is judged."""
    design = a_plan(*TWO)
    assert ExperimentDesign.from_json(design.to_json()) == design
    for wrong in ({"metric": "p99_ms"}, {"margin": 1.5}, {"alpha": 0}):
        with pytest.raises(ConfigError):
            ExperimentDesign.from_json({**design.to_json(), **wrong})
    with pytest.raises(ConfigError, match="no arm is named control"):
        a_plan("one", "two")
    with pytest.raises(ConfigError, match="cannot be read"):
        ExperimentDesign.from_json("{}")


def test_a_planted_gain_passes_and_is_called_better() -> None:
    """And the users' past makes its interval narrower."""
    rng = np.random.default_rng(1)
    found = judge_experiment(a_plan(*TWO), some_arms(rng, 3_000, {TWO[0]: 0.0, TWO[1]: 0.3}))
    side = found.sides[0]
    assert (found.verdict, found.winner) == (Verdict.PASS, "treatment")
    assert side.is_better and side.primary.low < 0.3 < side.primary.high
    assert side.primary.high - side.primary.low < 0.8 * side.width_without_past
    assert "treatment" in side.primary.message and "canary" not in side.primary.message


def test_a_planted_loss_fails_and_says_which_metric() -> None:
    """A loss beyond the margin at both treatments is a fail; of one alone it is not."""
    rng = np.random.default_rng(2)
    design = a_plan("control", "a", "b")
    lost = judge_experiment(design, some_arms(rng, 3_000, {"control": 0, "a": -0.4, "b": -0.4}))
    assert lost.verdict is Verdict.FAIL and "ctr" in lost.message and lost.winner is None
    mixed = judge_experiment(design, some_arms(rng, 3_000, {"control": 0, "a": -0.4, "b": 0.4}))
    assert (mixed.verdict, mixed.winner) == (Verdict.PASS, "b")


def test_few_users_are_inconclusive_and_told_what_would_change_it() -> None:
    """A forecast, or how many users are missing."""
    rng = np.random.default_rng(3)
    found = judge_experiment(a_plan(*TWO), some_arms(rng, 400, dict.fromkeys(TWO, 0.0)))
    assert found.verdict is Verdict.INCONCLUSIVE and "more users" in found.needed
    tiny = judge_experiment(a_plan(*TWO), some_arms(rng, 10, dict.fromkeys(TWO, 0.0)))
    assert tiny.verdict is Verdict.INCONCLUSIVE and "at least 50 users" in tiny.needed


def test_sides_that_are_no_split_bear_no_verdict() -> None:
    """Nobody, an empty side, and a mismatch: each is said, none raises."""
    rng = np.random.default_rng(4)
    arms = {TWO[0]: an_arm(rng, 900), TWO[1]: an_arm(rng, 600)}
    found = judge_experiment(a_plan(*TWO), arms)
    assert found.verdict is None and "SAMPLE RATIO MISMATCH" in found.message
    empty = {TWO[0]: an_arm(rng, 8), TWO[1]: an_arm(rng, 0)}
    assert "NO USERS of treatment" in judge_experiment(a_plan(*TWO), empty).message
    nobody = {name: an_arm(rng, 0) for name in TWO}
    assert "no user has a slate" in judge_experiment(a_plan(*TWO), nobody).message
    assert sample_ratio((0.5, 0.5), (1_000, 1_020)) == 1.0


def test_intervals_of_equal_sides_miss_no_more_often_than_alpha_under_peeking() -> None:
    """Sixty experiments without a difference, each looked at three times."""
    rng = np.random.default_rng(5)
    rule, missed = a_plan(*TWO).rule, 0
    for _ in range(60):
        whole = some_arms(rng, 600, dict.fromkeys(TWO, 0.0))
        looks = []
        for n in (150, 300, 600):
            rows = np.arange(600) < n
            one, two = (users_of(whole[name], rows) for name in TWO)
            looks.append(compare(rule, one, two, 0.05))
        missed += any(look.low > 0 or look.high < 0 for look in looks)
    assert missed <= 5


def test_values_of_two_arms_are_those_that_comparisons_use() -> None:
    """One theta and one center over all arms: the difference is that of `compare`."""
    rng = np.random.default_rng(6)
    arms = some_arms(rng, 500, {TWO[0]: 0.0, TWO[1]: 0.2})
    rule = a_plan(*TWO).rule
    found = arm_values(rule, list(arms.values()))
    assert found is not None and found.theta is not None and 0.2 < found.theta < 1.5
    compared = compare(rule, arms["control"], arms["treatment"], 0.05)
    plain = arms["control"].users
    base = plain["engaged_items"].sum() / plain["shown"].sum()
    assert (found.values[1] - found.values[0]) / base == pytest.approx(compared.effect, rel=1e-9)
    contrast = np.array([-1.0, 1.0])
    low, high = contrast_interval(found.values, found.variances, contrast, 0.05, rule.margin)
    assert (low, high) == pytest.approx((compared.low, compared.high), abs=0.03)


def test_a_factorial_tells_both_factors_and_their_interaction() -> None:
    """Retriever +30 %, scorer +20 %, and 25 points more than their sum together."""
    rng = np.random.default_rng(7)
    lifts = dict(zip(FACTORIAL_ARMS, (0.0, 0.3, 0.2, 0.75), strict=True))
    design = a_plan(*FACTORIAL_ARMS)
    assert design.is_factorial
    found = {
        one.name: one
        for one in factorial_effects(design.rule, some_arms(rng, 6_000, lifts), design.alpha)
    }
    truth = {"retriever": (0.3 + 0.55) / 2, "scorer": (0.2 + 0.45) / 2, "interaction": 0.25}
    for name, effect in truth.items():
        assert found[name].low < effect < found[name].high
        assert found[name].effect == pytest.approx(effect, abs=0.1)
    assert found["retriever"].low > 0 and found["scorer"].low > 0
    few = some_arms(rng, 20, lifts)
    assert factorial_effects(design.rule, few, design.alpha) == ()


def test_segments_share_alpha_and_the_rarest_are_not_shown() -> None:
    """So each interval is wider than it were alone; of twenty values eight are shown."""
    rng = np.random.default_rng(8)
    design = a_plan(*TWO)
    arms = some_arms(rng, 2_000, dict.fromkeys(TWO, 0.0))
    values = ["tv", "phone", *(f"d{n}" for n in range(18))]
    labels = {name: rng.choice(values, 2_000) for name in TWO}
    rows = by_segment(design, arms, labels, values)
    assert len(rows) == MAX_VALUES == len({row.value for row in rows})
    n_shown = sum(row.n_treated + row.n_control for row in rows)
    assert not_shown(labels) == (12, 4_000 - n_shown)
    first = rows[0]
    sides = [users_of(arms[name], labels[name] == first.value) for name in TWO]
    alone = compare(design.rule, sides[0], sides[1], design.alpha)
    assert first.low < alone.low < alone.high < first.high


def test_shares_of_alpha_sum_to_one_however_many_values_come() -> None:
    """No value that comes later gets more than one before it."""
    shares = [alpha_share(number) for number in range(1, 10_001)]
    assert shares == sorted(shares, reverse=True)
    assert 0.999 < sum(shares) < 1.0


def test_a_segment_of_few_users_has_no_interval() -> None:
    """It is shown, and nothing is said of it."""
    rng = np.random.default_rng(9)
    design = a_plan(*TWO)
    arms = some_arms(rng, 400, dict.fromkeys(TWO, 0.0))
    labels = {name: np.where(np.arange(400) < 10, "rare", "usual") for name in TWO}
    usual, rare = by_segment(design, arms, labels, ("usual", "rare"), 2)
    assert (rare.value, rare.n_control) == ("rare", 10)
    assert rare.to_json()["low"] is None and np.isfinite(usual.low)
    sides = [users_of(arms[name], labels[name] == "usual") for name in TWO]
    halved = compare(design.rule, sides[0], sides[1], design.alpha / 2)
    assert (usual.low, usual.high) == (halved.low, halved.high)


def test_a_rows_interval_is_the_same_however_many_rows_come_later() -> None:
    """Of a segment and of a day: what a look may say of them is settled when they come."""
    rng = np.random.default_rng(11)
    design = a_plan(*TWO)
    arms = some_arms(rng, 900, dict.fromkeys(TWO, 0.1))
    later = rng.choice([f"d{n}" for n in range(20)], 500)
    labels = {name: np.concatenate([np.full(400, "tv"), later]) for name in TWO}
    early = {name: users_of(arms[name], labels[name] == "tv") for name in TWO}
    arrived = ["tv", *(f"d{n}" for n in range(20))]
    tv = {name: labels[name][:400] for name in TWO}
    (first,) = by_segment(design, early, tv, arrived[:1])
    rows = by_segment(design, arms, labels, arrived)
    assert len(rows) == 8 and rows[0] == first
    late = by_segment(design, early, tv, arrived[::-1])[0]
    assert late.low < first.low < first.high < late.high
    (day,) = by_day(design, {"1970-01-01": early})
    days = by_day(design, {f"1970-01-{n:02}": early for n in range(1, 32)})
    assert days[0] == day
    widths = [row.high - row.low for row in days]
    assert widths == sorted(widths) and widths[-1] < 2.5 * widths[0]


def test_the_planned_number_of_users_gives_about_its_power() -> None:
    """So many equal experiments of that size pass as were planned to."""
    rng = np.random.default_rng(10)
    rule = replace(a_plan(*TWO).rule, margin=0.25)
    pool = replace(an_arm(rng, 4_000), before=None)
    spread = unit_variance(rule, pool.users)
    assert spread is not None
    needed = users_needed(rule, spread, 0.05)
    assert needed is not None
    passed = 0
    for _ in range(60):
        sides = [replace(an_arm(rng, needed), before=None) for _ in TWO]
        passed += compare(rule, sides[0], sides[1], 0.05).verdict is Verdict.PASS
    assert 0.6 <= passed / 60 <= 0.97
    assert users_needed(replace(rule, margin=0.0), spread, 0.05) is None
    smaller = users_needed(rule, spread, 0.05, lift=0.1)
    assert smaller is not None and smaller < needed
