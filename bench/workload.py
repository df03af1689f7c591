"""The measured workload: a bundle of clustered items, users with histories, an empty event log.

Weights are drawn, not learned: speed does not depend on what they say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from recsys.bundles.registry import open_registry
from recsys.events import new_event_id
from recsys.scorer import CandidateScorer, save_scorer
from recsys.scorer_network import ScorerConfig, ScorerNetwork
from recsys.settings import Settings
from recsys.stores.features.open_features import open_feature_writer
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import save_towers
from recsys.types import FloatArray, HistoryEvent, Item
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.following.features.load_history import load_histories
from train_app.publish import assemble, publish_bundle, write_bundle_manifest

DIM = 64
HISTORY = 50
KINDS = ("view", "click", "purchase")
_CLUSTER_SPREAD = 0.35
_GAP_MS = 3_600_000
"""Between a user's events. A bound of the towers' gap buckets on purpose: an answer that depends on
how ages are rounded differs from one moment to the next, and what compares answers shows it."""


def prepare(data_dir: Path, n_items: int, n_users: int) -> tuple[Path, Path]:
    """Fill `data_dir`; the settings file and the bundle's directory."""
    settings = Settings(data_dir=data_dir)
    rng = np.random.default_rng(0)
    history = _history(rng, n_items, n_users)
    models = data_dir / "models"
    models.mkdir()
    _save_models(models, settings, history, rng)
    staging = data_dir / "staging" / new_event_id()
    draft = assemble(models, staging, history, settings, lambda *_: None)
    write_bundle_manifest(staging, draft, lineage={}, metrics={}, parents=(), now=datetime.now(UTC))
    manifest = publish_bundle(staging, open_registry(settings))
    writer = open_feature_writer(settings)
    load_histories(writer, _by_user(history), settings)
    writer.close()
    settings_file = data_dir / "settings.json"
    settings_file.write_text(settings.model_dump_json())
    return settings_file, Path(settings.registry_location) / manifest.bundle_id


def _history(rng: np.random.Generator, n_items: int, n_users: int) -> Interactions:
    now_ms = time.time_ns() // 1_000_000
    n_events = n_users * HISTORY
    rows = (n_items * rng.random(n_events) ** 2).astype(int)
    return interactions_from_columns(
        user_ids=[str(user) for user in np.repeat(np.arange(n_users), HISTORY)],
        item_ids=[str(row) for row in rows],
        kinds=[KINDS[kind] for kind in rng.choice(3, n_events, p=[0.7, 0.25, 0.05])],
        timestamps_ms=now_ms - _GAP_MS * np.tile(np.arange(HISTORY)[::-1] + 1, n_users),
        items=[
            Item(str(row), f"Item number {row}", (f"category {row % 40}",), created_ms=now_ms)
            for row in range(n_items)
        ],
    )


def _clustered(rng: np.random.Generator, n_items: int) -> FloatArray:
    centers = rng.standard_normal((max(n_items // 200, 1), DIM))
    near = centers[rng.integers(len(centers), size=n_items)]
    vectors = near + _CLUSTER_SPREAD * rng.standard_normal((n_items, DIM))
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _save_models(
    models: Path, settings: Settings, history: Interactions, rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    towers = settings.train.towers
    config = TowerConfig(
        n_items=history.n_items,
        embedding_dim=DIM,
        n_layers=towers.n_layers,
        n_heads=towers.n_heads,
        history_length=towers.history_length,
        kinds=history.kinds,
        n_content_buckets=towers.n_content_buckets,
    )
    no_content = np.full((history.n_items, 1), -1, np.int32)
    model = TwoTower(config, no_content, np.ones(history.n_items, np.bool_))
    with torch.no_grad():
        model.item.ids.copy_(torch.from_numpy(_clustered(rng, history.n_items)))
    save_towers(model, models)
    scorer_config = ScorerConfig(
        n_items=history.n_items,
        embedding_dim=DIM,
        hidden_dims=settings.train.scorer.hidden_dims,
        actions=history.kinds,
        utility_weights=(1.0,) * len(history.kinds),
        score_center=0.0,
        score_spread=1.0,
        user_scale=1.0,
        vector_scale=1.0,
        blend=1.0,
        action_log_odds=(0.0,) * len(history.kinds),
        action_trust=(1.0,) * len(history.kinds),
        is_negative=(False,) * len(history.kinds),
    )
    popularity = torch.zeros(history.n_items)
    vectors = torch.from_numpy(model.item_vectors())
    network = ScorerNetwork(scorer_config)
    save_scorer(CandidateScorer(scorer_config, network, vectors, popularity), models)


def _by_user(history: Interactions) -> Iterator[tuple[str, list[HistoryEvent]]]:
    for user, user_id in enumerate(history.user_ids):
        events = range(history.offsets[user], history.offsets[user + 1])
        yield (
            user_id,
            [
                HistoryEvent(
                    history.items[history.rows[event]].item_id,
                    history.kinds[history.kind_ids[event]],
                    int(history.timestamps_ms[event]),
                )
                for event in events
            ],
        )
