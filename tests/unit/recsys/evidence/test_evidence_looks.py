"""A sound canary looked at again and again, and a bad one: simulated, with a fixed seed."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from recsys.evidence import simulated_looks
from recsys.evidence.metric_rules import METRICS
from recsys.evidence.simulated_looks import JUDGE, RULES, simulate_looks
from recsys.evidence.simulated_users import SimulatedRollout, simulated_arms

ALPHA = 0.05
WATCHED = (*RULES, METRICS["conversion"], METRICS["value_per_user"], METRICS["p99_ms"])
PLAIN = SimulatedRollout(n_users=150, n_looks=10)
WORLDS = {
    "plain": PLAIN,
    "skewed": replace(PLAIN, spread=1.5, activity=1.0),
    "sparse": replace(PLAIN, ctr=0.003, conversion=0.003),
    "drifting": replace(PLAIN, drift=1.0),
    "failing": replace(PLAIN, n_users=60, failures=0.05),
}
N_ROLLOUTS = 100
MOST = 11 / N_ROLLOUTS
"""Of 100 at a chance of 5 %, more than 11 come about once in 230; the seed is fixed."""


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_sound_canary_is_aborted_no_more_often_than_promised(name):
    """No loss allowed at all, every metric alone at alpha, and all critical ones together."""
    rules = [replace(rule, margin=0.0) for rule in WATCHED]
    found = simulate_looks(WORLDS[name], n_rollouts=N_ROLLOUTS, alpha=ALPHA, rules=rules, seed=7)
    for metric, figures in found.items():
        assert figures.aborted <= MOST, metric
        assert figures.missed <= MOST, metric


def z_interval(baseline, baseline_variance, canary, canary_variance, *, alpha, scale):
    """What a test with a fixed horizon says of the same values; it does not know of other looks."""
    del scale
    ratio = canary / baseline
    error = np.sqrt(canary_variance + np.square(ratio) * baseline_variance) / baseline
    wide = NormalDist().inv_cdf(1 - alpha / 2) * error
    return ratio - 1 - wide, ratio - 1 + wide


def test_an_interval_that_is_not_made_for_peeking_breaks_the_promise(monkeypatch):
    """So the tests above are able to fail: a z interval at each look is wrong too often."""
    monkeypatch.setattr(simulated_looks, "relative_interval", z_interval)
    rule = replace(METRICS["ctr"], margin=0.0)
    world = replace(PLAIN, n_users=600)
    found = simulate_looks(world, n_rollouts=N_ROLLOUTS, alpha=ALPHA, rules=[rule], seed=7)
    assert found["ctr"].missed > MOST


def test_sums_of_simulated_users_are_those_of_the_world_that_is_told():
    """Users of each look, slates, clicks per item, and the planted effect, to a few percent."""
    world = SimulatedRollout(n_users=3_000, n_looks=4, activity=0.5, effect=-0.2)
    ((baseline, canary),) = simulated_arms(world, 20, np.random.default_rng(1), ["ctr"])
    first, second = baseline.moments["ctr"], canary.moments["ctr"]
    assert first.n[0].tolist() == [750, 1_500, 2_250, 3_000]
    # Who came at the last look was there for a fourth of the time, and so on.
    assert baseline.slates[:, -1].mean() == pytest.approx(3_000 * 4.0 * 2.5 / 4, rel=0.05)
    assert first.ratio[:, -1].mean() == pytest.approx(0.075, rel=0.05)
    assert (second.ratio / first.ratio)[:, -1].mean() == pytest.approx(0.8, rel=0.03)
    assert (np.diff(first.top, axis=1) > 0).all()
    between = first.ratio[:, -1].std() / np.sqrt(first.variance(np.zeros(1))[:, -1].mean())
    assert 0.5 < between < 1.7


def test_what_is_broken_is_aborted_early():
    """Errors, slow answers, and a third of the clicks gone."""
    for metric, change in (
        ("error_rate", {"added_failures": 0.1}),
        ("p50_ms", {"slower": 10.0}),
        ("ctr", {"effect": -0.35}),
    ):
        world = replace(SimulatedRollout(n_users=800, n_looks=5, spread=0.3), **change)
        figures = simulate_looks(world, n_rollouts=5, alpha=ALPHA, seed=8)
        assert figures[metric].aborted == 1.0
        assert figures[metric].passed == 0.0
        assert figures[JUDGE].aborted == 1.0
        assert figures[JUDGE].users_at_abort < 800
