"""What the simulated world does with whole batches of slates, and how good an order truly is.

Pure: leaves the world's sessions as they are. n requests, K positions, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from recsys.simulated.simulation import World

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


def clicks_on(
    world: World, users: _Ints, slates: _Ints, days: _Floats, rng: Generator
) -> NDArray[np.bool_]:
    """What is clicked of slates of item indices [n, K]; an index of -1 shows nothing."""
    chances = world.click_chance(users, np.maximum(slates, 0), days)
    seen = rng.random(slates.shape) < world.examination(slates.shape[1])
    return np.asarray(seen & (rng.random(slates.shape) < chances) & (slates >= 0))


def true_ndcg(
    world: World, users: _Ints, slates: _Ints, days: _Floats, known: _Ints | None = None
) -> _Floats:
    """NDCG of slates [n, K] by the users' true chances to click, [n]; -1 is worth nothing.

    Args:
        known: item indices the best possible slate is made of; all that have appeared by default.
    """
    items = np.arange(len(world.all_items)) if known is None else known
    everything = np.broadcast_to(items, (len(users), len(items)))
    best = -np.sort(-world.click_chance(users, everything, days), axis=1)[:, : slates.shape[1]]
    discounts = 1.0 / np.log2(np.arange(slates.shape[1]) + 2)
    worth = world.click_chance(users, np.maximum(slates, 0), days) * (slates >= 0)
    return np.asarray((worth @ discounts) / (best @ discounts[: best.shape[1]]))


def kendall_tau(estimates: _Floats, truth: _Floats) -> _Floats:
    """Kendall's tau-a of each row's two orders, [n], of values [n, C]."""
    upper = np.triu_indices(estimates.shape[1], 1)
    agreement = [
        np.sign(values[:, upper[0]] - values[:, upper[1]]) for values in (estimates, truth)
    ]
    return np.asarray((agreement[0] * agreement[1]).mean(axis=1))
