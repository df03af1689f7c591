"""Plans of rollouts: the built-in ones, those of files, and what is refused of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rollouts.deciding.rollout_plan import (
    OPERATIONAL,
    PLAN_NAMES,
    OnTimeout,
    PlanStep,
    RolloutPlan,
    built_in,
    check_plan,
    waits_for_labels,
)
from cluster.rollouts.deciding.rollout_plan_file import parse_plan, plan_named
from recsys.errors import ConfigError
from recsys.evidence.metric_rules import METRICS, Role

PLAN = """
name = "mine"
alpha = 0.01
label_window_s = 120
[[steps]]
share = 0.05
min_users = 50
min_s = 30
metrics = ["error_rate", "ctr"]
[[steps]]
share = 0.5
max_s = 600
on_timeout = "abort"
metrics = ["ctr"]
[metrics.ctr]
margin = 0.04
role = "signal"
winsorise = 0.99
"""


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_every_built_in_plan_rises_to_half_and_knows_its_metrics(name: str) -> None:
    """The instant one has no steps."""
    plan = built_in(name)
    assert list(plan.shares) == sorted(set(plan.shares))
    assert (plan.shares == ()) == (name == "instant")
    assert max(plan.shares, default=0.5) == 0.5
    for place, step in enumerate(plan.steps):
        assert [rule.name for rule in plan.rules_of(place)] == list(step.metrics)
        assert step.min_users > 0
        assert step.min_s > 0


def test_the_fast_plan_waits_for_nobodys_reaction_and_the_careful_one_takes_days() -> None:
    """Operational metrics are right within seconds."""
    fast, careful = built_in("fast"), built_in("careful")
    assert {step.metrics for step in fast.steps} == {OPERATIONAL}
    assert sum(fast.min_time_s(place) for place in range(3)) <= 300
    assert sum(careful.min_time_s(place) for place in range(5)) >= 5 * 86_400
    assert built_in("standard").shares == (0.01, 0.05, 0.1, 0.25, 0.5)


def test_a_step_judged_on_reactions_lasts_at_least_the_window_of_labels() -> None:
    """A reaction comes after the slate."""
    plan = parse_plan(PLAN)
    assert [waits_for_labels(step) for step in plan.steps] == [True, True]
    assert plan.min_time_s(0) == 120.0
    quick = replace(plan, steps=(replace(plan.steps[0], metrics=("error_rate",)),))
    assert quick.min_time_s(0) == 30.0


def test_a_file_gives_steps_and_its_own_margins() -> None:
    """What it does not name is the catalogue's."""
    plan = parse_plan(PLAN)
    assert (plan.name, plan.alpha, plan.shares) == ("mine", 0.01, (0.05, 0.5))
    assert plan.steps[1] == PlanStep(0.5, max_s=600.0, on_timeout=OnTimeout.ABORT, metrics=("ctr",))
    rules = {rule.name: rule for rule in plan.rules}
    assert rules["error_rate"] == METRICS["error_rate"]
    assert rules["ctr"] == replace(METRICS["ctr"], margin=0.04, role=Role.SIGNAL, winsorise=0.99)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("share = 0.05", "share = 0.6", r"steps\[0\].share is 0.6, expected above 0 and at most"),
        ("share = 0.05", "share = nan", r"steps\[0\].share is nan"),
        ("share = 0.5\n", "share = 0.05\n", r"steps\[1\].share is 0.05, expected more than 0.05"),
        ("share = 0.05\n", "", r"steps\[0\].share is missing"),
        ("min_s = 30", "min_s = -1", r"steps\[0\].min_s is -1.0, expected 0 or more seconds"),
        ("max_s = 600", "max_s = 0", r"steps\[1\].max_s is 0.0, expected more than 120.0"),
        ("min_users = 50", "min_users = -5", r"steps\[0\].min_users is -5"),
        ("min_users = 50", "min_users = 1.5", r"steps\[0\].min_users is 1.5: expected `int`"),
        ("min_users = 50", "users = 50", r"steps\[0\].users is not known, expected some of share"),
        ('metrics = ["ctr"]', "metrics = []", r"steps\[1\].metrics is empty"),
        ('metrics = ["ctr"]', 'metrics = ["clicks"]', r"names 'clicks', expected some of"),
        ('on_timeout = "abort"', 'on_timeout = "go"', r"steps\[1\].on_timeout is 'go': invalid"),
        ("alpha = 0.01", "alpha = 0.7", r"alpha is 0.7, expected above 0 and below 0.5"),
        ("alpha = 0.01", 'alpha = "x"', r"alpha is 'x': expected `float`"),
        ("alpha = 0.01", "beta = 0.1", r"beta is not known, expected some of name"),
        ("label_window_s = 120", "label_window_s = -1", r"label_window_s is -1"),
        ("alpha = 0.01", "shadow_requests = -1", r"shadow_requests is -1, expected 0 or more"),
        ("alpha = 0.01", "shadow_requests = 1.5", r"shadow_requests is 1.5: expected `int`"),
        ("alpha = 0.01", "shadow_share = 0.0", r"shadow_share is 0.0, expected above 0 and at mos"),
        ("alpha = 0.01", "shadow_max_s = inf", r"shadow_max_s is inf, expected more than 0 second"),
        ("alpha = 0.01", 'on_shadow_timeout = "go"', r"on_shadow_timeout is 'go': invalid enum"),
        ("alpha = 0.01", "min_overlap = 1.5", r"min_overlap is 1.5, expected 0 to 1"),
        ("alpha = 0.01", "min_overlap = 0.5", r"expected shadow_requests above 0"),
        ("[metrics.ctr]", "[metrics.clicks]", r"metrics.clicks is not known"),
        ("margin = 0.04", "margin = -0.1", r"metrics.ctr.margin is -0.1, expected 0 or more"),
        ("winsorise = 0.99", "winsorise = 0.2", r"metrics.ctr.winsorise is 0.2"),
        ('role = "signal"', 'shape = "mean"', r"metrics.ctr.shape is not known"),
        ('name = "mine"', "name = [", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_key_and_value(
    old: str, new: str, said: str
) -> None:
    """With what was expected."""
    assert old in PLAN
    with pytest.raises(ConfigError, match=said):
        parse_plan(PLAN.replace(old, new, 1))


def test_a_file_without_steps_is_no_plan() -> None:
    """An instant rollout is asked for by its name."""
    with pytest.raises(ConfigError, match="at least one"):
        parse_plan("name = 'empty'")


def test_a_plan_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    """And what is neither says which there are."""
    file = tmp_path / "mine.toml"
    file.write_text(PLAN.replace('name = "mine"\n', ""))
    assert plan_named(str(file)).name == "mine"
    assert plan_named("fast") == built_in("fast")
    with pytest.raises(ConfigError, match="'quick' does not exist, expected one of instant, fast"):
        plan_named("quick")
    with pytest.raises(ConfigError, match=r"cannot be read .*no\.toml"):
        plan_named(str(tmp_path / "no.toml"))


def test_a_plan_reads_back_from_json_as_it_was() -> None:
    """It is kept inside the record."""
    plan = parse_plan(PLAN)
    document = msgspec.json.decode(msgspec.json.encode(plan))
    assert msgspec.convert(document, RolloutPlan) == plan


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.5, 1.0) | st.just(float("nan")), min_size=1, max_size=5))
def test_only_shares_that_rise_to_at_most_half_pass(shares: list[float]) -> None:
    """Whatever they are."""
    plan = RolloutPlan(
        "p", tuple(PlanStep(share, metrics=("ctr",)) for share in shares), (METRICS["ctr"],)
    )
    rises = all(a < b for a, b in zip([0.0, *shares], shares, strict=False))
    if rises and max(shares) <= 0.5:
        assert check_plan(plan, "plan") == plan
    else:
        with pytest.raises(ConfigError, match="share is"):
            check_plan(plan, "plan")
