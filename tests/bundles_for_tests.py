"""A small real bundle, made in a second: untrained towers and scorer, real index and golden file.

For tests of whatever serves, verifies or moves bundles; nothing here trains.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.bundle import Manifest, space_fingerprint, write_manifest
from recsys.bundles.golden import make_golden
from recsys.bundles.item_table import MS_PER_DAY, write_item_table
from recsys.bundles.registry import Registry
from recsys.features import FeatureSchema, content_matrix
from recsys.index import build_shard, save_shard
from recsys.scorer import CandidateScorer, item_popularity, save_scorer
from recsys.scorer_network import ScorerConfig, ScorerNetwork
from recsys.settings import RetrievalSettings, ServeSettings, Settings
from recsys.stages import shard_stage_name
from recsys.stores.control.control import ControlReader
from recsys.traffic import TrafficPlan
from recsys.two_tower import TowerConfig, TwoTower, save_towers
from recsys.types import HistoryEvent, Item, Source

KINDS = ("click", "like", "dismiss")
NOW_MS = 1_760_000_000_000
SALT = "salt"


@dataclass(frozen=True)
class Draft:
    """What golden requests need to know before there is a manifest."""

    space_fingerprint: str
    feature_schema: dict[str, Any]
    feature_schema_hash: str
    n_shards: int


def small_settings(data_dir: Path, **serve: Any) -> Settings:
    """Settings that fit the small bundle; `serve` overrides the serving branch.

    A test that asks what is answered gives the answer time and room, and answers stay whole,
    however busy the machine is.
    """
    defaults: dict[str, Any] = {
        "plan_poll_s": 0.2,
        "max_batch": 16,
        "deadline_ms": 20_000,
        "stage_timeout_ms": 10_000,
        "min_concurrent": 512,
        "ladder_wait_ms": 0,
    }
    return Settings(
        data_dir=data_dir,
        retrieval=RetrievalSettings(n_candidates=40, n_popular=6, n_fresh=4, n_shards=2),
        serve=ServeSettings(**{**defaults, **serve}),
    )


def small_items(n_items: int) -> list[Item]:
    """A catalogue with titles, a few categories and creators, and one item per hour."""
    return [
        Item(
            f"i{n}",
            f"Title {n}",
            (f"category {n % 7}",),
            f"creator {n % 11}",
            created_ms=NOW_MS - 30 * MS_PER_DAY + n * MS_PER_DAY * 30 // n_items,
        )
        for n in range(n_items)
    ]


def small_history(seed: int, n_items: int, n_events: int = 12) -> list[HistoryEvent]:
    """Engagements at random, a minute apart."""
    rng = random.Random(seed)
    return [
        HistoryEvent(
            f"i{rng.randrange(n_items)}", rng.choice(KINDS), NOW_MS - 60_000 * (n_events - n)
        )
        for n in range(n_events)
    ]


def build_bundle(
    directory: Path,
    settings: Settings,
    *,
    n_items: int = 120,
    dim: int = 16,
    history_length: int = 20,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Manifest:
    """Write a whole bundle directory; `seed` decides its weights and with them its id.

    Args:
        rows: which of the items stand in which order; None for all in theirs.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    items = small_items(n_items)
    if rows is not None:
        items = [items[row] for row in rows]
        n_items = len(items)
    directory.mkdir(parents=True)
    schema = FeatureSchema(KINDS, history_length, 512)
    _write_models(directory, items, schema, dim)
    vectors = torch.from_numpy(_vectors(directory))
    _write_scorer(directory, vectors, rng)
    fingerprint = space_fingerprint(directory)
    for shard in range(settings.retrieval.n_shards):
        own = np.arange(shard, n_items, settings.retrieval.n_shards, dtype=np.int32)
        built = build_shard(
            vectors.numpy()[own],
            own,
            recall_target=settings.retrieval.recall_target,
            exact_below=settings.retrieval.exact_below,
            seed=seed,
        )
        save_shard(built, directory / "index" / shard_stage_name(shard), fingerprint)
    write_item_table(directory, items, rng.gamma(1.0, 10.0, n_items).astype(np.float32))
    (directory / "settings.json").write_text(settings.model_dump_json())
    draft = Draft(fingerprint, schema.to_json(), schema.hash, settings.retrieval.n_shards)
    make_golden(directory, draft, settings, [small_history(n, n_items) for n in range(7)])
    return write_manifest(
        directory,
        bundle_id=f"b{seed:04d}",
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seed),
        feature_schema=schema.to_json(),
        feature_schema_hash=schema.hash,
        actions=KINDS,
        n_items=n_items,
        n_shards=settings.retrieval.n_shards,
        embedding_dim=dim,
        lineage={"source": "tests"},
        metrics={},
    )


def publish_small(settings: Settings, staging: Path, **build: Any) -> Manifest:
    """Build a bundle and add it to the settings' registry."""
    build_bundle(staging, settings, **build)
    return Registry(settings.registry_location).publish(staging)


def put_in_force(
    settings: Settings, plan: TrafficPlan, also_required: tuple[str, ...] = ()
) -> None:
    """Require the plan's bundles and put it in force, at the next epoch."""
    writer = ControlWriter(settings.control_url)
    view = ControlReader(settings.control_url).view()
    writer.set_required((*plan.bundle_ids, *also_required), view.required)
    epoch = view.plan.epoch if view.plan is not None else 0
    writer.set_plan(TrafficPlan(epoch + 1, plan.salt, plan.arms), epoch)


def all_to(bundle_id: str) -> TrafficPlan:
    """Everything to one stable bundle."""
    return TrafficPlan.single(bundle_id, 1, SALT)


def _write_models(directory: Path, items: list[Item], schema: FeatureSchema, dim: int) -> None:
    config = TowerConfig(
        n_items=len(items),
        embedding_dim=dim,
        n_layers=1,
        n_heads=2,
        history_length=schema.history_length,
        kinds=schema.kinds,
        n_content_buckets=schema.n_content_buckets,
    )
    content = content_matrix(items, schema.n_content_buckets)
    save_towers(TwoTower(config, content, np.ones(len(items), np.bool_)), directory)


def _vectors(directory: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(directory / "item_vectors.safetensors")["vectors"]


def _write_scorer(directory: Path, vectors: torch.Tensor, rng: np.random.Generator) -> None:
    config = ScorerConfig(
        n_items=len(vectors),
        embedding_dim=vectors.shape[1],
        hidden_dims=(32, 16),
        actions=KINDS,
        utility_weights=(1.0, 2.0, -1.0),
        score_center=0.0,
        score_spread=float(vectors.std()),
        user_scale=1.0,
        vector_scale=1.0,
        blend=0.5,
        action_log_odds=(0.5, -0.5, -2.0),
        action_trust=(1.0, 1.0, 1.0),
        is_negative=(False, False, True),
        acted_rate=0.1,
        n_sources=len(Source),
    )
    network = ScorerNetwork(config)
    torch.nn.init.normal_(network.residual_head.weight, std=0.5)
    torch.nn.init.normal_(network.action_head.weight, std=0.5)
    counts = rng.gamma(1.0, 10.0, len(vectors)).astype(np.float32)
    popularity = torch.from_numpy(item_popularity(counts))
    save_scorer(CandidateScorer(config, network.eval(), vectors, popularity), directory)


def write_as(staging: Path, good: Manifest, bundle_id: str) -> Manifest:
    """A manifest under this name that is right about what lies there, else the good one's."""
    return write_manifest(
        staging,
        bundle_id=bundle_id,
        created_at=datetime.fromisoformat(good.created_at),
        feature_schema=good.feature_schema,
        feature_schema_hash=good.feature_schema_hash,
        actions=good.actions,
        n_items=good.n_items,
        n_shards=good.n_shards,
        embedding_dim=good.embedding_dim,
        lineage={},
        metrics={},
    )
