"""Makes a bundle that must never serve: a published one whose scorer answers NaN.

For the demo and for drills. Bundles are otherwise written by `train_app.publish` alone; this one
goes through the same door of the registry, whole and with a true manifest, so that only the checks
made when a replica loads it can find it out.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import numpy as np

from recsys.bundles.bundle import (
    MANIFEST_NAME,
    Manifest,
    content_digest,
    new_bundle_id,
    write_manifest,
)
from recsys.bundles.registry import Registry

SCORER_FILE = "scorer.safetensors"


def publish_spoiled(registry: Registry, good_id: str, work_dir: Path, now: datetime) -> Manifest:
    """Publish a copy of a bundle with NaN in every weight of its scorer.

    Args:
        work_dir: a directory for the copy and for a download, both left to the caller.
    """
    good = registry.manifest(good_id)
    staging = work_dir / "spoiled"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(registry.fetch(good_id, work_dir / "fetched"), staging)
    spoil_weights(staging / SCORER_FILE)
    (staging / MANIFEST_NAME).unlink()
    write_manifest(
        staging,
        bundle_id=new_bundle_id(now, content_digest(staging)),
        created_at=now,
        feature_schema=good.feature_schema,
        feature_schema_hash=good.feature_schema_hash,
        actions=good.actions,
        n_items=good.n_items,
        n_shards=good.n_shards,
        embedding_dim=good.embedding_dim,
        lineage={**good.lineage, "spoiled_on_purpose": True},
        metrics={},
        parents=(good_id,),
    )
    return registry.publish(staging)


def spoil_weights(path: Path) -> None:
    """Put NaN into every floating-point tensor of a safetensors file, its metadata kept."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # ruff: ignore[in-dict-keys]
    for name, values in tensors.items():
        if np.issubdtype(values.dtype, np.floating):
            tensors[name] = np.full_like(values, np.nan)
    save_file(tensors, path, metadata)
