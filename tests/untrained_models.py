"""A stand-in for training: real model files with random weights, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from recsys.features import content_matrix
from recsys.learning_settings import TowerSettings, TrainSettings
from recsys.scorer import CandidateScorer, item_popularity, save_scorer
from recsys.scorer_network import ScorerConfig, ScorerNetwork
from recsys.settings import RetrievalSettings, Settings
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import save_towers
from recsys.types import Item, Source
from train_app.examples.interactions import Interactions, interactions_from_columns

torch.set_num_threads(1)  # the networks are tiny: threads would only wait for each other

DIM, HISTORY_LENGTH, N_CONTENT_BUCKETS = 8, 8, 32


def small_settings(data_dir: Path, **more: object) -> Settings:
    """Settings of a data directory that fit `write_untrained_models`."""
    towers = TowerSettings(
        embedding_dim=DIM,
        n_layers=1,
        n_heads=1,
        history_length=HISTORY_LENGTH,
        n_content_buckets=N_CONTENT_BUCKETS,
    )
    branches: dict[str, object] = {
        "train": TrainSettings(towers=towers),
        "retrieval": RetrievalSettings(n_shards=2, n_candidates=20),
        **more,
    }
    return Settings.model_validate({"data_dir": data_dir, **branches})


def some_interactions(n_users: int = 20, n_items: int = 30) -> Interactions:
    """Users with five engagements each, in order of time."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(n_items)[:5] for _ in range(n_users)])
    n = 5 * n_users
    return interactions_from_columns(
        [f"u{event % n_users}" for event in range(n)],
        [f"i{item}" for item in items],
        ["click", "like"] * (n // 2),
        [1_700_000_000_000 + 60_000 * event for event in range(n)],
        items=[
            Item(f"i{row}", f"title {row}", ("even", "odd")[row % 2 : row % 2 + 1])
            for row in range(n_items)
        ],
        lineage={"lake_version": 3},
    )


def write_untrained_models(
    train: Interactions,
    settings: Settings,
    workdir: Path,
    *,
    warm_start: Path | None,
    report: Callable[[str, float], None],
) -> None:
    """What `train_models` leaves, without learning anything."""
    torch.manual_seed(settings.train.seed)
    config = TowerConfig(
        n_items=train.n_items,
        embedding_dim=DIM,
        n_layers=1,
        n_heads=1,
        history_length=HISTORY_LENGTH,
        kinds=train.kinds,
        n_content_buckets=N_CONTENT_BUCKETS,
    )
    counts = np.bincount(train.rows, minlength=train.n_items)
    model = TwoTower(config, content_matrix(train.items, N_CONTENT_BUCKETS), counts > 0)
    n_actions = len(train.kinds)
    scorer_config = ScorerConfig(
        n_items=train.n_items,
        embedding_dim=DIM,
        hidden_dims=(8,),
        actions=train.kinds,
        utility_weights=(1.0,) * n_actions,
        score_center=0.0,
        score_spread=1.0,
        user_scale=1.0,
        vector_scale=1.0,
        action_log_odds=(0.0,) * n_actions,
        action_trust=(1.0,) * n_actions,
        is_negative=(False,) * n_actions,
        n_sources=len(Source),
    )
    workdir.mkdir(parents=True, exist_ok=True)
    save_towers(model, workdir)
    popularity = torch.from_numpy(item_popularity(counts.astype(np.float32)))
    vectors = torch.from_numpy(model.item_vectors())
    network = ScorerNetwork(scorer_config)
    save_scorer(CandidateScorer(scorer_config, network, vectors, popularity), workdir)
    report("training", 1.0)
