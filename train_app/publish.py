"""Assembles a bundle directory from trained models and adds it to the registry.

The only writer of bundles. Every function starts over or finds its work done, so a run that was
killed anywhere can simply be run again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundles.bundle import (
    Manifest,
    content_digest,
    new_bundle_id,
    read_manifest,
    space_fingerprint,
    write_manifest,
)
from recsys.bundles.golden import make_golden
from recsys.bundles.item_table import write_item_table
from recsys.bundles.registry import Registry
from recsys.bundles.scorer_space import ScorerSpace
from recsys.errors import BundleCorrupt, BundleError
from recsys.features import FeatureSchema
from recsys.settings import Settings
from recsys.settings_secrets import without_secrets
from recsys.stages import SCORER_FILES, TOWER_FILES
from recsys.types import HistoryEvent
from train_app.build_index import build_index
from train_app.evaluation.baselines import popularity, recent_since_ms
from train_app.examples.interactions import Interactions

MODEL_FILES = (*TOWER_FILES, "item_tower.safetensors", *SCORER_FILES)
"""What training leaves for the bundle."""
_N_GOLDEN_HISTORIES = 7
_GOLDEN_HISTORY_LENGTH = 50


@dataclass(frozen=True)
class BundleDraft:
    """What is known of a bundle before its manifest is written."""

    space_fingerprint: str
    feature_schema: Mapping[str, Any]
    feature_schema_hash: str
    actions: tuple[str, ...]
    n_items: int
    n_shards: int
    embedding_dim: int


def assemble(
    models_dir: Path,
    bundle_dir: Path,
    train: Interactions,
    settings: Settings,
    report: Callable[[str, float], None],
) -> BundleDraft:
    """Make `bundle_dir` a whole bundle but for its manifest, from nothing.

    Raises:
        BundleError: a model file is missing, or a model answers numbers that are not finite.
    """
    shutil.rmtree(bundle_dir, ignore_errors=True)
    bundle_dir.mkdir(parents=True)
    for name in MODEL_FILES:
        try:
            shutil.copyfile(models_dir / name, bundle_dir / name)
        except FileNotFoundError as error:
            raise BundleError(f"training left no {name} in {models_dir}; train again") from error
    build_index(bundle_dir, settings.retrieval, seed=settings.train.seed, report=report)
    recent = popularity(train, settings.events.negative_kinds, recent_since_ms(train))
    write_item_table(bundle_dir, train.items, recent)
    told = without_secrets(settings).model_dump_json(indent=1)
    (bundle_dir / "settings.json").write_text(told + "\n")
    draft = read_draft(bundle_dir, settings)
    make_golden(bundle_dir, draft, settings, golden_histories(train, settings.train.seed))
    return draft


def read_draft(bundle_dir: Path, settings: Settings) -> BundleDraft:
    """The facts of an assembled bundle, from its model files."""
    towers = json.loads((bundle_dir / "towers.json").read_text())
    scorer = json.loads((bundle_dir / "scorer.json").read_text())
    schema = FeatureSchema(
        kinds=tuple(towers["kinds"]),
        history_length=towers["history_length"],
        n_content_buckets=towers["n_content_buckets"],
    )
    return BundleDraft(
        space_fingerprint=space_fingerprint(bundle_dir),
        feature_schema=schema.to_json(),
        feature_schema_hash=schema.hash,
        actions=tuple(scorer["actions"]),
        n_items=towers["n_items"],
        n_shards=settings.retrieval.n_shards,
        embedding_dim=towers["embedding_dim"],
    )


def write_bundle_manifest(
    bundle_dir: Path,
    draft: BundleDraft,
    *,
    lineage: Mapping[str, object],
    metrics: Mapping[str, object],
    parents: Sequence[str],
    now: datetime,
    scorer_space: ScorerSpace | None = None,
) -> Manifest:
    """Name an assembled bundle and write its manifest; a bundle already named keeps its name."""
    try:
        return read_manifest(bundle_dir)
    except BundleCorrupt:
        return write_manifest(
            bundle_dir,
            bundle_id=new_bundle_id(now, content_digest(bundle_dir)),
            created_at=now,
            feature_schema=draft.feature_schema,
            feature_schema_hash=draft.feature_schema_hash,
            actions=draft.actions,
            n_items=draft.n_items,
            n_shards=draft.n_shards,
            embedding_dim=draft.embedding_dim,
            lineage=lineage,
            metrics=metrics,
            parents=parents,
            scorer_space=scorer_space,
        )


def publish_bundle(bundle_dir: Path, registry: Registry) -> Manifest:
    """Add a bundle with a manifest to the registry, once."""
    manifest = read_manifest(bundle_dir)
    if registry.exists(manifest.bundle_id):
        return registry.manifest(manifest.bundle_id)
    return registry.publish(bundle_dir)


def golden_histories(train: Interactions, seed: int) -> list[list[HistoryEvent]]:
    """The newest engagements of a few users, drawn at random."""
    rng = np.random.default_rng(seed)
    with_events = np.flatnonzero(np.diff(train.offsets) > 0)
    users = rng.permutation(with_events)[:_N_GOLDEN_HISTORIES]
    return [
        [
            HistoryEvent(
                train.items[train.rows[event]].item_id,
                train.kinds[train.kind_ids[event]],
                int(train.timestamps_ms[event]),
            )
            for event in range(
                max(train.offsets[user], train.offsets[user + 1] - _GOLDEN_HISTORY_LENGTH),
                train.offsets[user + 1],
            )
        ]
        for user in users
    ]


def code_revision() -> str | None:
    """The revision of this program's source tree, `None` where there is none to be told."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
