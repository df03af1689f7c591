"""Makes bundles that must not last: copies of a published one, spoiled on purpose.

For the demo and for drills. Bundles are otherwise written by `train_app.publish` alone; these go
through the same door of the registry, whole and with a true manifest, so that only the checks made
when a replica loads them, or the evidence, can find them out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
SETTINGS_FILE = "settings.json"
RANDOM_POOL = 1_000
"""At least every candidate of a request."""
NEARLY_UNIFORM = 1e6
"""A softmax of utilities over such a temperature."""


def publish_spoiled(registry: Registry, good_id: str, work_dir: Path, now: datetime) -> Manifest:
    """Publish a copy of a bundle with NaN in every weight of its scorer.

    Args:
        work_dir: a directory for the copy and for a download, both left to the caller.
    """
    return _publish_copy(
        registry, good_id, work_dir, now, lambda staging: spoil_weights(staging / SCORER_FILE)
    )


def publish_worse(registry: Registry, good_id: str, work_dir: Path, now: datetime) -> Manifest:
    """Publish a copy of a bundle that passes every check and shows its candidates at random.

    Args:
        work_dir: as for `publish_spoiled`.
    """
    return _publish_copy(
        registry, good_id, work_dir, now, lambda staging: forget_order(staging / SETTINGS_FILE)
    )


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


def forget_order(path: Path) -> None:
    """Make a bundle's ordering policy draw every position at random from all candidates."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["ordering"] = {
        **document.get("ordering", {}),
        "pool": RANDOM_POOL,
        "exploration": 1.0,
        "temperature": NEARLY_UNIFORM,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _publish_copy(
    registry: Registry,
    good_id: str,
    work_dir: Path,
    now: datetime,
    spoil: Callable[[Path], None],
) -> Manifest:
    good = registry.manifest(good_id)
    staging = work_dir / "spoiled"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(registry.fetch(good_id, work_dir / "fetched"), staging)
    spoil(staging)
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
