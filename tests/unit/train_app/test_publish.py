"""From model files to a published bundle: whole, verified, loadable, and published once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.bundle import Manifest, verify_bundle
from recsys.bundles.golden import check_golden, read_golden
from recsys.bundles.item_table import ItemTable
from recsys.bundles.registry import Registry
from recsys.errors import BundleError
from recsys.settings import Settings
from recsys.stages import load_stage, stage_names
from tests.untrained_models import small_settings, some_interactions, write_untrained_models
from train_app.publish import (
    assemble,
    golden_histories,
    publish_bundle,
    read_draft,
    write_bundle_manifest,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def silent(label: str, share: float) -> None:
    """Nobody reads this progress."""


def an_assembled_bundle(data_dir: Path) -> tuple[Path, Settings]:
    """A bundle directory without a manifest."""
    settings = small_settings(data_dir)
    models, bundle = data_dir / "models", data_dir / "bundle"
    train = some_interactions()
    write_untrained_models(train, settings, models, warm_start=None, report=silent)
    assemble(models, bundle, train, settings, silent)
    return bundle, settings


def named(bundle: Path, settings: Settings, now: datetime = NOW) -> Manifest:
    """The bundle's manifest, written if it was not."""
    return write_bundle_manifest(
        bundle,
        read_draft(bundle, settings),
        lineage={"train_until_ms": 5},
        metrics={"ndcg@10": 0.1},
        parents=("b0",),
        now=now,
    )


def test_an_assembled_bundle_loads_and_answers_its_golden_requests(tmp_path: Path) -> None:
    """Every file of the contract is there, no pickle is, and every stage passes its check."""
    bundle, settings = an_assembled_bundle(tmp_path)
    manifest = named(bundle, settings)
    assert verify_bundle(bundle) == manifest
    assert {
        "user_tower.safetensors",
        "item_tower.safetensors",
        "item_vectors.safetensors",
        "towers.json",
        "scorer.safetensors",
        "scorer.json",
        "items.parquet",
        "settings.json",
        "golden.json",
        "index/shard-000/index.json",
        "index/shard-001/rows.npy",
    } <= set(manifest.files)
    assert not [name for name in manifest.files if name.endswith((".pkl", ".pickle", ".pt"))]
    golden = read_golden(bundle)
    for name in stage_names(manifest.n_shards):
        check_golden(name, load_stage(name, bundle, manifest, settings), golden)
    assert manifest.actions == ("click", "like")
    assert (manifest.n_items, manifest.embedding_dim, manifest.parents) == (30, 8, ("b0",))
    assert Settings.model_validate_json((bundle / "settings.json").read_text()) == settings


def test_the_item_table_keeps_the_rows_and_counts_recent_engagements(tmp_path: Path) -> None:
    """Row order is that of the interactions; popularity is of the newest tenth."""
    bundle, _ = an_assembled_bundle(tmp_path)
    table = ItemTable.read(bundle)
    interactions = some_interactions()
    assert table.item_ids == [item.item_id for item in interactions.items]
    newest = interactions.timestamps_ms >= np.quantile(
        interactions.timestamps_ms, 0.9, method="lower"
    )
    assert table.popularity.sum() == newest.sum()


def test_assembling_again_starts_over(tmp_path: Path) -> None:
    """What a killed run left is no part of the bundle."""
    bundle, settings = an_assembled_bundle(tmp_path)
    (bundle / "half-written").write_text("x")
    assemble(tmp_path / "models", bundle, some_interactions(), settings, silent)
    assert "half-written" not in named(bundle, settings).files


def test_a_bundle_is_published_once_however_often_it_is_tried(tmp_path: Path) -> None:
    """A run killed after publishing finds its work done, under the same id."""
    bundle, settings = an_assembled_bundle(tmp_path)
    registry = Registry(settings.registry_location)
    first_id = named(bundle, settings).bundle_id
    later = named(bundle, settings, datetime(2026, 2, 1, tzinfo=UTC))
    assert later.bundle_id == first_id
    assert publish_bundle(bundle, registry) == publish_bundle(bundle, registry)
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == [first_id]
    assert registry.manifest(first_id).lineage == {"train_until_ms": 5}


def test_a_model_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """Nothing half is assembled."""
    models = tmp_path / "models"
    settings = small_settings(tmp_path)
    write_untrained_models(some_interactions(), settings, models, warm_start=None, report=silent)
    (models / "scorer.json").unlink()
    with pytest.raises(BundleError, match=r"scorer\.json"):
        assemble(models, tmp_path / "bundle", some_interactions(), settings, silent)


def test_golden_histories_are_real_and_of_different_users() -> None:
    """Seven users' engagements in order, and none where there is no data."""
    interactions = some_interactions()
    histories = golden_histories(interactions, seed=0)
    assert len(histories) == 7
    times = [[event.timestamp_ms for event in history] for history in histories]
    assert all(history == sorted(history) and len(history) == 5 for history in times)
    nobody = interactions.select(np.zeros(len(interactions), np.bool_))
    assert golden_histories(nobody, seed=0) == []


def test_settings_are_stored_as_json(tmp_path: Path) -> None:
    """The resolved tree can be read without Flywheel."""
    bundle, _ = an_assembled_bundle(tmp_path)
    assert json.loads((bundle / "settings.json").read_text())["retrieval"]["n_shards"] == 2
