"""A drifting simulated world: the bundle that stays against one that is trained on from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.simulated_models import LoggedWorld, PageMaker, learning_settings, train
from recsys.settings import OrderingSettings, RetrievalSettings
from recsys.simulated.shown_in_world import true_ndcg
from recsys.simulated.simulated_population import WorldSettings
from recsys.simulated.simulation import World

_FIRST_DAY, _N_DAYS = 8.0, 24.0
_GREEDY = OrderingSettings(exploration=0.0, diversity=0.0)


@dataclass(frozen=True, slots=True)
class DriftResult:
    """Mean NDCG@10 of pages by the users' tastes on the last day."""

    stayed: float
    warm: float
    stayed_on_old_items: float
    """Likewise among the items that the staying bundle knows, so that tastes alone count."""
    warm_on_old_items: float


def measure_drift(
    seed: int, folder: Path, n_users: int = 200, n_items: int = 300, epochs: int = 6
) -> DriftResult:
    """Train on the first days, train on from there on all, and compare both on the last day."""
    law = WorldSettings(
        n_users=n_users, n_items=n_items, n_categories=6, n_days=_N_DAYS, quality=1.5
    )
    world = World(law, seed)
    logged = LoggedWorld(world, world.history(_N_DAYS, 36, np.random.default_rng((seed, 5))))
    settings = learning_settings(folder, seed, epochs=epochs, n_candidates=60)
    stayed, warm = folder / "stayed", folder / "warm"
    train(logged.known(_FIRST_DAY, _FIRST_DAY), settings, stayed)
    train(logged.known(_N_DAYS, _N_DAYS), settings, warm, stayed)
    makers = (
        PageMaker(stayed, logged, logged.known(_FIRST_DAY, _N_DAYS), _N_DAYS),
        PageMaker(warm, logged, logged.known(_N_DAYS, _N_DAYS), _N_DAYS),
    )
    old = makers[0].world_items[:-1]
    everything = [_quality(world, maker) for maker in makers]
    on_old = [_quality(world, maker, old) for maker in makers]
    return DriftResult(*everything, *on_old)


def _quality(world: World, maker: PageMaker, known: NDArray[np.int64] | None = None) -> float:
    retrieval = RetrievalSettings(n_candidates=len(maker.world_items), n_fresh=0)
    pages = maker.pages(retrieval, _GREEDY, among=known)
    days = np.full(len(maker.users), _N_DAYS)
    return float(true_ndcg(world, maker.users, pages, days, known).mean())
