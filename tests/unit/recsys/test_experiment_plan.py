"""Who takes part in which experiment: sticky, exclusive within a layer, independent across."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from recsys.errors import ConfigError
from recsys.experiment_plan import (
    NO_EXPERIMENTS,
    ExperimentArm,
    ExperimentPlan,
    Experiments,
    Layer,
    place_of,
    plan_from_json,
    plan_to_json,
)
from recsys.traffic import BASELINE, CANARY, STABLE, Arm, TrafficPlan

USERS = [f"user-{n}" for n in range(6000)]
SOUND = 1e-3
"""A sound assignment falls below it once in a thousand sets of users; these are fixed."""


def a_plan(
    name: str = "x-1",
    layer: Layer = Layer.BUNDLE,
    begin: float = 0.0,
    share: float = 1.0,
    shares: tuple[float, ...] = (0.5, 0.5),
) -> ExperimentPlan:
    """An experiment whose arms are a0, a1, ..."""
    arms = tuple(
        ExperimentArm(f"a{n}", size, f"b{n}" if layer is Layer.BUNDLE else "")
        for n, size in enumerate(shares)
    )
    return ExperimentPlan(name, layer, begin, share, arms)


def sides(experiments: Experiments, user: str) -> dict[Layer, str]:
    """What a user takes part in, by layer."""
    return {
        plan.layer: f"{plan.experiment_id}:{arm.name}" for plan, arm in experiments.of_user(user)
    }


shares_of_arms = st.lists(st.integers(1, 9), min_size=2, max_size=5).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@settings(deadline=None, max_examples=50)
@given(st.text(), st.floats(0.01, 0.5), st.floats(0.0, 0.5), shares_of_arms)
def test_a_growing_share_keeps_its_users_on_their_sides(
    user: str, share: float, more: float, shares: tuple[float, ...]
) -> None:
    """Whoever took part goes on as before; only users who took part in nothing are added."""
    small = a_plan(share=share, shares=shares)
    before = Experiments((small,)).of_user(user)
    after = Experiments((replace(small, share=share + more),)).of_user(user)
    assert [arm for _, arm in before] in ([], [arm for _, arm in after])


@settings(deadline=None, max_examples=50)
@given(
    st.text(),
    st.lists(st.tuples(st.sampled_from(Layer), st.floats(0, 0.9), st.floats(0.01, 1)), max_size=6),
    st.floats(0, 1),
)
def test_a_user_is_in_one_experiment_of_a_layer_at_most(
    user: str, slices: list[tuple[Layer, float, float]], holdout: float
) -> None:
    """Even where slices overlap; always the same ones, whatever the id is made of."""
    plans = tuple(
        a_plan(f"x-{n}", layer, begin, min(share, 1.0 - begin))
        for n, (layer, begin, share) in enumerate(slices)
    )
    experiments = Experiments(plans, holdout)
    found = experiments.of_user(user)
    layers = [plan.layer for plan, _ in found]
    assert len(set(layers)) == len(layers)
    assert found == Experiments(plans, holdout).of_user(user)
    assert all(plan in plans and arm in plan.arms for plan, arm in found)


@pytest.mark.parametrize("user", ["", "\x00", "\ud800", "ünïcödé", "用户" * 80, "a:b", "🎬"])
def test_any_id_has_a_place(user: str) -> None:
    """Lone surrogates too: JSON lets them through."""
    assert 0.0 <= place_of("salt", user) < 1.0
    assert len(Experiments((a_plan(),)).of_user(user)) == 1


def test_slices_side_by_side_share_all_users_of_a_layer_out() -> None:
    """Nobody between two slices, nobody in both, each as many as its share."""
    slices = ((0.0, 0.1), (0.1, 0.2), (0.1 + 0.2, 0.7))
    plans = tuple(a_plan(f"x-{n}", begin=at, share=size) for n, (at, size) in enumerate(slices))
    counts = Counter(Experiments(plans).of_user(user)[0][0].experiment_id for user in USERS)
    expected = [size * len(USERS) for _, size in slices]
    assert chisquare([counts[f"x-{n}"] for n in range(3)], expected).pvalue > SOUND


def test_arms_get_their_shares_of_a_slice() -> None:
    """Also of a narrow one: the place within the layer says nothing of the side."""
    shares = (0.2, 0.3, 0.5)
    experiments = Experiments((a_plan(begin=0.4, share=0.3, shares=shares),))
    counts = Counter(sides(experiments, user).get(Layer.BUNDLE) for user in USERS)
    n_inside = len(USERS) - counts[None]
    assert chisquare([n_inside, counts[None]], [0.3 * len(USERS), 0.7 * len(USERS)]).pvalue > SOUND
    inside = [counts[f"x-1:a{n}"] for n in range(3)]
    assert chisquare(inside, [share * n_inside for share in shares]).pvalue > SOUND


def test_layers_cut_the_users_independently() -> None:
    """Also of experiments at the same place of both layers."""
    experiments = Experiments(
        (
            a_plan("x-1", Layer.BUNDLE, 0.0, 0.5),
            a_plan("x-2", Layer.ORDERING, 0.0, 0.5),
            a_plan("x-3", Layer.ORDERING, 0.5, 0.25),
        )
    )
    found = [sides(experiments, user) for user in USERS]
    table = Counter((one.get(Layer.BUNDLE), one.get(Layer.ORDERING)) for one in found)
    rows, columns = ({key[axis] for key in table} for axis in (0, 1))
    assert (len(rows), len(columns)) == (3, 5)
    crossed = [[table[row, column] for column in columns] for row in rows]
    assert chi2_contingency(crossed).pvalue > SOUND


def test_an_experiment_takes_no_more_of_one_rollout_slice_than_of_another() -> None:
    """Canary and baseline lose equal shares of users to it, so their comparison stays fair."""
    arms = (Arm(CANARY, "b2", 0.2), Arm(STABLE, "b1", 0.6), Arm(BASELINE, "b1", 0.2))
    rollout = TrafficPlan(1, "rollout-7", arms)
    experiments = Experiments((a_plan(share=0.4),))
    table = Counter(
        (rollout.assign(user).variant, sides(experiments, user).get(Layer.BUNDLE)) for user in USERS
    )
    crossed = [
        [table[variant, side] for side in (None, "x-1:a0", "x-1:a1")]
        for variant in (CANARY, STABLE, BASELINE)
    ]
    assert chi2_contingency(crossed).pvalue > SOUND


def test_the_next_run_of_an_experiment_has_other_sides() -> None:
    """The id is the salt, so what one run did to its users is spread over both of the next."""
    first, second = Experiments((a_plan("x-1"),)), Experiments((a_plan("x-2"),))
    table = Counter(
        (first.of_user(user)[0][1].name, second.of_user(user)[0][1].name) for user in USERS
    )
    crossed = [[table[one, other] for other in ("a0", "a1")] for one in ("a0", "a1")]
    assert chi2_contingency(crossed).pvalue > SOUND


def test_the_holdout_takes_part_in_nothing_and_grows_without_exchanging_users() -> None:
    """It is the same share of every slice and of every layer."""
    plans = (a_plan("x-1", share=0.5), a_plan("x-2", Layer.ORDERING))
    small, large = Experiments(plans, 0.1), Experiments(plans, 0.3)
    without = Experiments(plans)
    held = [user for user in USERS if not small.of_user(user)]
    assert chisquare([len(held), len(USERS) - len(held)], [600, 5400]).pvalue > SOUND
    assert not any(large.of_user(user) for user in held)
    kept = [user for user in USERS if user not in set(held)]
    assert all(small.of_user(user) == without.of_user(user) for user in kept)
    assert not any(Experiments(plans, 1.0).of_user(user) for user in USERS[:100])


def test_no_experiment_has_nobody() -> None:
    """And needs no bundle."""
    assert NO_EXPERIMENTS.of_user("u1") == ()
    assert NO_EXPERIMENTS.bundle_ids == ()
    assert Experiments((a_plan("x-1"), a_plan("x-2"))).bundle_ids == ("b0", "b1")


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1), shares_of_arms, st.floats(0, 0.9))
def test_a_plan_is_read_as_it_was_written(
    name: str, shares: tuple[float, ...], begin: float
) -> None:
    """Through JSON text, with the same users on the same sides."""
    plan = a_plan(name, begin=begin, share=1.0 - begin, shares=shares)
    assert plan_from_json(json.dumps(plan_to_json(plan))) == plan


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"begin": 0.6, "share": 0.6}, "within \\[0, 1\\]"),
        ({"begin": float("nan")}, "within \\[0, 1\\]"),
        ({"share": 0.0}, "within \\[0, 1\\]"),
        ({"shares": (1.0,)}, "two or more"),
        ({"shares": (0.5, 0.6)}, "summing to 1"),
        ({"shares": (1.5, -0.5)}, "above 0"),
        ({"shares": (float("nan"), 1.0)}, "above 0"),
        ({"name": ""}, "no name"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(fields: dict[str, float], said: str) -> None:
    """With what is wrong and what was expected."""
    with pytest.raises(ConfigError, match=said):
        a_plan(**fields)  # type: ignore[arg-type]


def test_a_side_changes_only_what_its_layer_may() -> None:
    """A bundle in the ordering layer, no bundle or an ordering in the bundle layer."""
    bare = ExperimentArm("a1", 0.5)
    for layer, arm in (
        (Layer.ORDERING, ExperimentArm("a0", 0.5, "b0")),
        (Layer.BUNDLE, ExperimentArm("a0", 0.5)),
        (Layer.BUNDLE, ExperimentArm("a0", 0.5, "b0", {"diversity": 0.5})),
    ):
        with pytest.raises(ConfigError, match="arm a0"):
            ExperimentPlan("x-1", layer, 0.0, 1.0, (arm, bare))
