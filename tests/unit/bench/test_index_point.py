"""A small index, built, saved and searched as the bench does at every size."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from bench.scale.index_point import build, search
from bench.scale.item_vectors import space_of


def test_an_index_is_built_found_again_and_recalls_what_exact_search_finds(tmp_path: Path) -> None:
    """Shards below the tree's bound are exact, so nothing is lost."""
    built = build(tmp_path, 3_000, 2, 16, 0.97)
    assert built["build_s"] > 0 and built["tuned_recall"] == 1.0
    found = asyncio.run(search(tmp_path, 2, rate=200.0, seconds=0.5, k=50))
    assert found["recall"] == pytest.approx(1.0)
    assert 0 < found["p50_ms"] <= found["p99_ms"] and found["n_searched"] > 50
    assert found["shard_cpu_us"] > 0


def test_items_lie_in_clusters_and_users_have_length_one() -> None:
    """Few axes hold most of the variance, and neighbours are closer than strangers."""
    space = space_of(100_000, 32, seed=0)
    items = space.items(4_000, np.random.default_rng(1))
    variance = items.var(axis=0)
    assert variance[0] > 4 * variance[-1]
    distances = np.linalg.norm(items[:200, None] - items[None], axis=2)
    nearest = np.partition(distances, 1, axis=1)[:, 1]
    assert np.median(nearest) < 0.6 * np.median(distances)
    users = space.users(100, np.random.default_rng(2))
    assert np.linalg.norm(users, axis=1) == pytest.approx(np.ones(100), rel=1e-5)
