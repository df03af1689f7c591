"""Bundles that share their towers: what a scorer trained anew on the same vectors would leave."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.bundles.bundle import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from recsys.bundles.golden import GOLDEN_FILE, read_golden, remake_golden
from recsys.settings import Settings
from tests.bundles_for_tests import _vectors, _write_scorer


def build_sibling(
    directory: Path,
    base_dir: Path,
    settings: Settings,
    *,
    seed: int,
    ordering: dict[str, Any] | None = None,
) -> Manifest:
    """Write a whole bundle with the base's retrieval and, by `seed`, another scorer."""
    shutil.copytree(base_dir, directory)
    (directory / MANIFEST_NAME).unlink()
    golden = read_golden(directory)
    (directory / GOLDEN_FILE).unlink()
    torch.manual_seed(seed)
    vectors = torch.from_numpy(_vectors(directory))
    _write_scorer(directory, vectors, np.random.default_rng(seed))
    tree = json.loads((directory / "settings.json").read_text())
    tree["ordering"] |= ordering or {}
    (directory / "settings.json").write_text(json.dumps(tree))
    base = read_manifest(base_dir)
    remake_golden(directory, base, settings, golden)
    return write_manifest(
        directory,
        bundle_id=f"b{seed:04d}",
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seed),
        feature_schema=base.feature_schema,
        feature_schema_hash=base.feature_schema_hash,
        actions=base.actions,
        n_items=base.n_items,
        n_shards=base.n_shards,
        embedding_dim=base.embedding_dim,
        lineage={"source": "tests", "train_until_ms": seed},
        metrics={},
    )
