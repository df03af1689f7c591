"""New items in a simulated world: how often pages hold them, with and without what brings them in.

New are the items that appeared after the last engagement that was learned from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.simulated_models import LoggedWorld, PageMaker, learning_settings, train
from recsys.settings import OrderingSettings, RetrievalSettings
from recsys.simulated.simulated_population import WorldSettings
from recsys.simulated.simulation import World

_LEARNED_DAYS, _TODAY = 12.0, 14.0
_EXPLORATION = 0.1
ARMS = {
    "neither": (0, 0.0),
    "exploration": (0, _EXPLORATION),
    "fresh": (10, 0.0),
    "both": (10, _EXPLORATION),
}
"""By name: items of the fresh source, and the chance that a position explores."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one arm showed."""

    share: float
    """Share of all places that hold a new item."""
    reached: float
    """Share of the new items that stand on at least one page."""


def measure_exposure(
    seed: int, folder: Path, n_users: int = 200, n_items: int = 400, epochs: int = 6
) -> dict[str, Exposure]:
    """Train once, and make one page for every user in each arm."""
    law = WorldSettings(n_users=n_users, n_items=n_items, n_categories=6, n_days=_TODAY)
    world = World(law, seed)
    logged = LoggedWorld(world, world.history(_LEARNED_DAYS, 24, np.random.default_rng((seed, 6))))
    learned = logged.known(_TODAY, _LEARNED_DAYS)
    settings = learning_settings(folder, seed, epochs=epochs, n_candidates=60)
    train(learned, settings, folder / "models")
    maker = PageMaker(folder / "models", logged, learned, _TODAY)
    new = np.flatnonzero((world.created_day > _LEARNED_DAYS) & (world.created_day <= _TODAY))
    found = {}
    for name, (n_fresh, exploration) in ARMS.items():
        retrieval = RetrievalSettings(n_candidates=60, n_fresh=n_fresh)
        ordering = OrderingSettings(pool=60, exploration=exploration, diversity=0.0)
        pages = maker.pages(retrieval, ordering, seed)
        found[name] = Exposure(float(np.isin(pages, new).mean()), float(np.isin(new, pages).mean()))
    return found
