"""A whole bundle of a few bytes: its files mean nothing, its manifest is right."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from recsys.bundles.bundle import Manifest, write_manifest

NOW = datetime(2026, 11, 22, 9, 15, 0, tzinfo=UTC)
FILES = {
    "user_tower.safetensors": b"user tower",
    "item_tower.safetensors": b"item tower",
    "item_vectors.safetensors": b"vectors" * 100,
    "index/shard-000/codes.npy": b"shard zero",
    "index/shard-001/codes.npy": b"",
    "settings.json": b"{}",
}


def a_bundle(directory: Path, bundle_id: str = "b1", **changes: object) -> Manifest:
    """Write a small whole bundle into `directory`."""
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    facts: dict[str, object] = {
        "created_at": NOW,
        "feature_schema": {"kinds": ["view"]},
        "feature_schema_hash": "4e1c",
        "actions": ["view"],
        "n_items": 3,
        "n_shards": 2,
        "embedding_dim": 8,
        "lineage": {"lake_version": 4},
        "metrics": {"ndcg@10": 0.125},
        "parents": ["b0"],
    }
    return write_manifest(directory, bundle_id=bundle_id, **(facts | changes))  # type: ignore[arg-type]
