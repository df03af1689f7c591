"""Bundles of a few bytes whose parts are chosen: for whatever compares, composes or removes them.

No stage can load them; `bundles_for_tests` makes those that can be served.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundles.bundle import MANIFEST_NAME, Manifest, write_manifest
from recsys.bundles.item_table import write_item_table
from recsys.bundles.registry import Registry
from recsys.bundles.scorer_space import SCORER_SPACE, SCORER_SPACE_FILES, ScorerSpace
from recsys.settings import Settings
from recsys.types import Item

MADE_S = 1_760_000_000
"""When the bundle of second 0 was made, Unix time."""
DAY_S = 86_400


def publish_parts(
    settings: Settings,
    folder: Path,
    bundle_id: str,
    *,
    second: int = 0,
    space: str = "space",
    scorer: str = "scorer",
    ordering: dict[str, Any] | None = None,
    items: Sequence[Item] = (Item("i0"), Item("i1")),
    n_heads: int = 2,
    schema_hash: str = "4e1c",
    actions: tuple[str, ...] = ("view", "like"),
    parents: tuple[str, ...] = (),
    lineage: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    carried: str | None = None,
) -> Manifest:
    """Add a bundle whose parts say what they are; `carried` is the space its scorer brought."""
    staging = folder / f"staging-{bundle_id}"
    staging.mkdir(parents=True)
    for name in ("user_tower", "item_tower", "item_vectors"):
        (staging / f"{name}.safetensors").write_text(f"{name} {space}")
    (staging / "towers.json").write_text(json.dumps({"n_heads": n_heads}))
    if carried is None:
        (staging / "scorer.json").write_text(json.dumps({"scorer": scorer}))
        (staging / "scorer.safetensors").write_text(scorer)
    else:
        (staging / SCORER_SPACE).mkdir()
        for name in SCORER_SPACE_FILES:
            (staging / name).write_text(f"{scorer} {carried}")
    (staging / "settings.json").write_text(json.dumps({"ordering": ordering or {}}))
    write_item_table(staging, items, np.ones(len(items), np.float32))
    write_manifest(
        staging,
        bundle_id=bundle_id,
        created_at=datetime.fromtimestamp(MADE_S + second, UTC),
        feature_schema={},
        feature_schema_hash=schema_hash,
        actions=actions,
        n_items=len(items),
        n_shards=2,
        embedding_dim=8,
        lineage=lineage or {},
        metrics=metrics or {},
        parents=parents,
        scorer_space=None if carried is None else ScorerSpace("a" * 64, 8, 0),
    )
    return Registry(settings.registry_location).publish(staging)


def let_age(settings: Settings, age_s: float, now_s: float) -> None:
    """Make every bundle of a local registry look as if it had been published so long ago."""
    for directory in Path(settings.registry_location).iterdir():
        for path in (*directory.rglob("*"), directory):
            os.utime(path, (now_s - age_s, now_s - age_s))


def tear(settings: Settings, bundle_id: str) -> None:
    """Leave a bundle as a deletion by hand leaves it that was interrupted."""
    (Path(settings.registry_location) / bundle_id / MANIFEST_NAME).unlink()
