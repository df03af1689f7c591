"""Vectors to shards: each item in one shard, by row, of the right space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from recsys.bundles.bundle import space_fingerprint
from recsys.errors import BundleError
from recsys.index import load_shard
from recsys.settings import RetrievalSettings
from recsys.types import FloatArray
from train_app.build_index import build_index


def a_directory_with(vectors: FloatArray, directory: Path) -> Path:
    """A bundle directory that holds towers and vectors."""
    bundle = directory / "bundle"
    bundle.mkdir()
    save_file({"vectors": vectors}, bundle / "item_vectors.safetensors")
    for name in ("user_tower.safetensors", "item_tower.safetensors"):
        (bundle / name).write_bytes(b"")
    return bundle


def silent(label: str, share: float) -> None:
    """Nobody reads this progress."""


def vectors_of(n: int) -> FloatArray:
    """[n, 8] random vectors."""
    return np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)


@pytest.mark.parametrize("n_items", [0, 1, 7])
def test_shard_s_holds_the_rows_that_leave_s(tmp_path: Path, n_items: int) -> None:
    """With more shards than items some shards are empty; together they hold every row once."""
    bundle = a_directory_with(vectors_of(n_items), tmp_path)
    parameters = build_index(bundle, RetrievalSettings(n_shards=3), seed=0, report=silent)
    fingerprint = space_fingerprint(bundle)
    for number in range(3):
        shard = load_shard(bundle / "index" / f"shard-{number:03d}", fingerprint)
        assert shard.rows.tolist() == list(range(number, n_items, 3))
        assert shard.parameters == parameters[number]


def test_building_again_leaves_no_shard_of_before(tmp_path: Path) -> None:
    """Fewer shards than before are fewer directories."""
    bundle = a_directory_with(vectors_of(9), tmp_path)
    for n_shards in (3, 2):
        build_index(bundle, RetrievalSettings(n_shards=n_shards), seed=0, report=silent)
    left = {path.name for path in (bundle / "index").iterdir()}
    assert left == {"shard-000", "shard-001"}


def test_a_tree_is_built_quietly_and_tuned_to_given_queries(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Native messages go to a log beside the bundle, not into it and not to the terminal."""
    bundle = a_directory_with(vectors_of(4_100), tmp_path)
    settings = RetrievalSettings(n_shards=2, exact_below=0)
    parameters = build_index(
        bundle, settings, seed=0, report=silent, queries=vectors_of(4_100)[:50] * 2
    )
    assert [shard.kind for shard in parameters] == ["tree", "tree"]
    assert all(shard.recall >= settings.recall_target for shard in parameters)
    assert not capfd.readouterr().err
    assert not (bundle / "build.log").exists()


def test_missing_and_broken_vectors_are_refused(tmp_path: Path) -> None:
    """The error names the file, or the row that is not finite."""
    vectors = vectors_of(5)
    vectors[3] = np.nan
    bundle = a_directory_with(vectors, tmp_path)
    with pytest.raises(BundleError, match="row 3 is not finite"):
        build_index(bundle, RetrievalSettings(), seed=0, report=silent)
    (bundle / "item_vectors.safetensors").unlink()
    with pytest.raises(BundleError, match="item_vectors"):
        build_index(bundle, RetrievalSettings(), seed=0, report=silent)
