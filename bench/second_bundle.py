"""Two bundles of one set of towers that order otherwise, without chance: each has one answer."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from recsys.bundles.bundle import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from recsys.bundles.golden import read_golden, remake_golden
from recsys.bundles.registry import Registry
from recsys.settings import Settings

PAIR = ("forward", "backward")


def publish_pair(registry: Registry, settings: Settings, folder: Path) -> tuple[str, str]:
    """Publish both, made of the newest bundle; the second scores as the first, negated.

    Returns:
        Their ids.
    """
    newest = max(registry.list_bundles(), key=lambda manifest: manifest.created_at)
    source = registry.fetch(newest.bundle_id, folder / "source")
    for bundle_id, sign in zip(PAIR, (1.0, -1.0), strict=True):
        _publish(registry, settings, source, folder / bundle_id, sign)
    return PAIR


def _publish(
    registry: Registry, settings: Settings, source: Path, staging: Path, sign: float
) -> None:
    good = read_manifest(source)
    shutil.copytree(source, staging)
    (staging / MANIFEST_NAME).unlink()
    _change(staging / "settings.json", "ordering", {"exploration": 0.0, "diversity": 0.0})
    scorer = json.loads((staging / "scorer.json").read_text())
    scorer["utility_weights"] = [sign * weight for weight in scorer["utility_weights"]]
    (staging / "scorer.json").write_text(json.dumps(scorer))
    remake_golden(staging, good, settings, read_golden(staging))
    write_as(staging, good)
    registry.publish(staging)


def write_as(staging: Path, good: Manifest) -> None:
    """Write the manifest of a changed copy, which is named as its folder."""
    write_manifest(
        staging,
        bundle_id=staging.name,
        created_at=datetime.now(UTC),
        feature_schema=good.feature_schema,
        feature_schema_hash=good.feature_schema_hash,
        actions=good.actions,
        n_items=good.n_items,
        n_shards=good.n_shards,
        embedding_dim=good.embedding_dim,
        lineage={},
        metrics={},
    )


def _change(path: Path, branch: str, values: dict[str, float]) -> None:
    document = json.loads(path.read_text())
    document[branch] = {**document.get(branch, {}), **values}
    path.write_text(json.dumps(document))
