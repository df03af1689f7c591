"""Batches of slates in the simulated world, and how good an order truly is."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.simulated.shown_in_world import clicks_on, kendall_tau, true_ndcg
from recsys.simulated.simulated_population import WorldSettings
from recsys.simulated.simulation import World

LAW = WorldSettings(n_users=20, n_items=60, n_categories=4, new_share=0.0, reluctance=3.0)


def test_clicks_agree_with_examination_and_appeal() -> None:
    """By position, clicks are chance times examination; an empty place is never clicked."""
    world = World(LAW, 0)
    users, slates = np.zeros(4000, np.int64), np.tile(np.array([3, 3, 3, -1]), (4000, 1))
    days = np.zeros(4000)
    clicks = clicks_on(world, users, slates, days, np.random.default_rng(0))
    chance = world.click_chance(users[:1], slates[:1, :1], days[:1])[0, 0]
    assert clicks[:, :3].mean(0) == pytest.approx(chance * world.examination(4)[:3], abs=0.03)
    assert not clicks[:, 3].any()
    assert not world.sessions.engaged.any()


def test_the_best_slate_has_a_true_ndcg_of_one() -> None:
    """Any other has less, and among fewer items the best of those has one."""
    world = World(LAW, 0)
    users, days = np.arange(20), np.zeros(20)
    everything = np.tile(np.arange(60), (20, 1))
    order = np.argsort(-world.click_chance(users, everything, days), axis=1)
    assert true_ndcg(world, users, order[:, :10], days) == pytest.approx(1.0)
    assert (true_ndcg(world, users, order[:, -10:], days) < 0.9).all()
    odd = np.arange(1, 60, 2)
    among = order[order % 2 == 1].reshape(20, -1)[:, :10]
    assert true_ndcg(world, users, among, days, odd) == pytest.approx(1.0)


def test_kendalls_tau_of_known_orders() -> None:
    """Equal orders 1, reversed -1, one swap of neighbours in four 2/3, ties count as neither."""
    truth = np.array([[1.0, 2.0, 3.0, 4.0]] * 4)
    orders = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [2, 1, 3, 4], [0, 0, 0, 0]], np.float64)
    assert kendall_tau(orders, truth) == pytest.approx([1.0, -1.0, 2 / 3, 0.0])
