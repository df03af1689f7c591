"""Simulated rollouts: the plan's own rule on users that are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.svg_curves import svg_curves
from cluster.rollouts.deciding.rollout_plan import PlanStep, RolloutPlan
from cluster.rollouts.simulation.logged_traffic import traffic_of
from cluster.rollouts.simulation.rival_rules import FIXED, PEEKING, RAW
from cluster.rollouts.simulation.simulated_rollout import Looks, Outcome, simulate_rollout
from cluster.rollouts.simulation.simulated_slices import SimulatedSlices
from cluster.rollouts.simulation.simulation_report import simulate_setting, wilson
from cluster.rollouts.simulation.traffic_shape import Effect, TrafficShape, changed, parse_effect
from recsys.errors import ConfigError
from recsys.evidence.metric_rules import METRICS
from recsys.stores.evidence.evidence_sums import LatencyHistogram, UserColumns, VariantEvidence

SHAPE = TrafficShape(requests_per_minute=600.0, users=1_000, ctr=0.3)
CTR = replace(METRICS["ctr"], margin=0.0)
PLAN = RolloutPlan("ctr", (PlanStep(0.5, 50, 100, min_s=100.0, metrics=("ctr",)),), (CTR,))
LOOKS = Looks(100.0, 800.0)


def test_equal_canaries_are_aborted_at_most_alpha_of_the_time() -> None:
    """However often they are judged; raw thresholds abort nearly all, peeking at a test more."""
    reports = {one.rule: one for one in simulate_setting(PLAN, SHAPE, Effect(), 15, LOOKS, seed=3)}
    assert reports["sequential"].aborted.n <= 3  # P(> 3 of 15 at 5 %) is below 1 %
    assert reports[RAW].aborted.n >= 5
    assert reports[FIXED].aborted.of == reports[PEEKING].aborted.of == 15


def test_a_large_loss_is_found_and_exposes_few() -> None:
    """And is never promoted."""
    rng = np.random.default_rng(1)
    end = simulate_rollout(PLAN, SHAPE, Effect(ctr=-0.6), LOOKS, rng)
    assert (end.outcome, end.deciding) == (Outcome.ABORTED, "ctr")
    assert 0 < end.users_exposed <= 500


def test_a_canary_that_only_fails_is_aborted_by_its_errors() -> None:
    """Though no user of it has a slate."""
    plan = replace(
        PLAN,
        steps=(replace(PLAN.steps[0], metrics=("error_rate",)),),
        rules=(METRICS["error_rate"],),
    )
    end = simulate_rollout(
        plan, SHAPE, Effect(error_rate=1.0), Looks(20.0, 100.0), np.random.default_rng(2)
    )
    assert end.outcome is Outcome.ABORTED
    assert end.users_exposed > 0


def test_slices_are_alike_and_grow_with_the_share() -> None:
    """The same users stay in."""
    slices = SimulatedSlices(SHAPE, Effect(), np.random.default_rng(4))
    slices.pass_time(0.1, 0.0, 600.0)
    few = slices.users_exposed
    slices.pass_time(0.5, 600.0, 600.0)
    assert few <= 100 < slices.users_exposed <= 500
    samples = slices.samples()
    ratio = samples["canary"].counts["slates"] / samples["baseline"].counts["slates"]
    assert 0.7 < ratio < 1.4


def test_an_effect_is_read_from_text() -> None:
    """And one that cannot be is named."""
    assert parse_effect("ctr=-0.05,error_rate=0.02") == Effect(ctr=-0.05, error_rate=0.02)
    for wrong in ("clicks=1", "ctr", "ctr=-2", "error_rate=-0.1", "ctr=nan"):
        with pytest.raises(ConfigError, match="expected NAME=CHANGE"):
            parse_effect(wrong)
    with pytest.raises(ConfigError, match="users is 1"):
        changed(SHAPE, {"users": 1, "ctr": None})


def test_a_share_has_wilsons_interval() -> None:
    """Checked by hand: 5 of 100 is 2.15 % to 11.18 %."""
    share = wilson(5, 100)
    assert (round(share.low, 4), round(share.high, 4)) == (0.0215, 0.1118)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_traffic_is_taken_from_what_was_counted() -> None:
    """Rates per minute, the CTR, and a skew beyond chance."""
    sums = {"slates": 600, "shown": 6_000, "engaged_slates": 60, "sessions": 300}
    latency = LatencyHistogram({30: 590, 40: 10})
    arm = VariantEvidence("b1", "stable", "", sums, {}, {(500, "x"): 6}, latency, latency)
    hashes, ids = np.arange(2), np.zeros(2, np.int64)
    slates = {"slates": np.array([500, 100])}
    users = UserColumns(hashes, ids, (("b1", "stable", ""),), slates)
    shape = traffic_of([arm], users, hours=10.0).shape
    assert (shape.requests_per_minute, shape.ctr, shape.items_per_slate) == (1.01, 0.1, 10)
    assert shape.activity_skew > 0.3


def test_curves_are_drawn() -> None:
    """With a legend, and no names that would break the picture."""
    picture = svg_curves("a < b", {"one & two": [(0.0, 0.0), (2.0, 1.0)]}, "x", "y", 0.5)
    assert picture.count("<polyline") - picture.count("#e4e4e4") == 3  # the rest is a grid
    assert "a &lt; b" in picture
    assert "one &amp; two" in picture
