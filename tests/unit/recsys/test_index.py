"""One index shard: exact when small, tuned when large, relocatable, refusing what is broken."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import BundleCorrupt, BundleError, SpaceMismatch
from recsys.index import Shard, build_shard, load_shard, save_shard
from recsys.types import FloatArray, RowArray


def a_shard(vectors: FloatArray, rows: RowArray | None = None, exact_below: int = 5_000) -> Shard:
    """A shard of `vectors`, by default with rows 0..n-1."""
    if rows is None:
        rows = np.arange(len(vectors), dtype=np.int32)
    return build_shard(vectors, rows, recall_target=0.95, exact_below=exact_below, seed=1)


def normal(n: int, dim: int, seed: int = 0) -> FloatArray:
    """[n, dim] standard normal vectors."""
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def brute_force(vectors: FloatArray, rows: RowArray, queries: FloatArray, k: int) -> RowArray:
    """The rows of the k largest inner products, ties by row, -1 padded."""
    scores = queries @ vectors.T
    order = np.lexsort((np.broadcast_to(rows, scores.shape), -scores), axis=1)[:, :k]
    best = rows[order]
    return np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-1)


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 60), dim=st.sampled_from([8, 9, 16]), k=st.integers(1, 80), seed=st.integers(0)
)
def test_a_small_shard_equals_brute_force(n: int, dim: int, k: int, seed: int) -> None:
    """Rows, scores, order and padding are those of the full sort, for any k."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    rows = rng.permutation(1000)[:n].astype(np.int32)
    queries = rng.normal(size=(3, dim)).astype(np.float32)
    found, scores = a_shard(vectors, rows).search(queries, k)
    assert (found == brute_force(vectors, rows, queries, k)).all()
    vector_of = dict(zip(rows.tolist(), vectors, strict=True))
    for query, query_rows, query_scores in zip(queries, found, scores, strict=True):
        n_found = min(k, n)
        exact = [query @ vector_of[row] for row in query_rows[:n_found].tolist()]
        assert np.allclose(query_scores[:n_found], exact, atol=1e-4)
        assert np.isneginf(query_scores[n_found:]).all()


def test_an_empty_shard_answers_padding() -> None:
    """No item is an answer too: rows -1, scores -inf."""
    rows, scores = a_shard(np.zeros((0, 8), np.float32)).search(normal(2, 8), 5)
    assert rows.tolist() == [[-1] * 5] * 2
    assert np.isneginf(scores).all()


def test_no_queries_give_no_answers() -> None:
    """A batch of nobody is not an error."""
    rows, scores = a_shard(normal(10, 8)).search(np.zeros((0, 8), np.float32), 5)
    assert rows.shape == scores.shape == (0, 5)


def test_equal_vectors_are_ordered_by_row() -> None:
    """Ties, also between copies of one vector, are broken by the row."""
    rows = np.arange(40, dtype=np.int32)[::-1].copy()
    found, scores = a_shard(np.tile(normal(1, 8), (40, 1)), rows).search(normal(1, 8, seed=3), 12)
    assert found.tolist() == [list(range(12))]
    assert len(set(scores[0].tolist())) == 1


def test_a_query_that_is_not_finite_finds_nothing_and_spares_its_neighbours() -> None:
    """One broken embedding costs only its own request."""
    shard = a_shard(normal(50, 8))
    queries = normal(3, 8, seed=2)
    expected, _ = shard.search(queries, 5)
    queries[1, 0] = np.nan
    found, scores = shard.search(queries, 5)
    assert found[1].tolist() == [-1] * 5
    assert np.isneginf(scores[1]).all()
    assert (found[[0, 2]] == expected[[0, 2]]).all()


def test_a_vector_that_is_not_finite_is_refused_by_its_row() -> None:
    """The error names the item row."""
    vectors = normal(5, 8)
    vectors[3, 2] = np.inf
    with pytest.raises(BundleError, match="item row 42 is not finite"):
        a_shard(vectors, np.array([7, 8, 9, 42, 50], np.int32))


def test_rows_must_be_unique_and_fit() -> None:
    """A row named twice, or too few rows, is refused."""
    with pytest.raises(BundleError, match="unique"):
        a_shard(normal(3, 8), np.array([1, 2, 1], np.int32))
    with pytest.raises(BundleError, match="do not fit"):
        a_shard(normal(3, 8), np.array([1, 2], np.int32))


def test_a_query_of_another_width_is_refused() -> None:
    """An embedding of another space cannot be searched with."""
    with pytest.raises(SpaceMismatch, match="width 8"):
        a_shard(normal(3, 8)).search(normal(1, 16), 2)


@pytest.mark.parametrize("degenerate", [False, True])
def test_a_tree_reaches_its_recall(degenerate: bool) -> None:
    """Above `exact_below` a tree is built; copies of few vectors do not break it."""
    vectors = normal(3_000, 12)
    if degenerate:
        vectors = np.repeat(vectors[:6], 500, axis=0)
    shard = a_shard(vectors, exact_below=0)
    assert shard.parameters.kind == "tree"
    assert shard.parameters.recall >= 0.95
    rows, scores = shard.search(vectors[:20], 100)
    exact = -np.sort(-(vectors[:20] @ vectors.T), axis=1)[:, 99]
    assert (scores >= exact[:, None] - 1e-4).mean() >= 0.9
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 100 for row in rows.tolist())


def test_the_recall_target_holds_on_given_queries_too() -> None:
    """Queries unlike the items raise the cost until they are served as well."""
    vectors = normal(3_000, 12)
    queries = -3 * vectors[:300] + normal(300, 12, seed=5)
    shard = build_shard(
        vectors,
        np.arange(3_000, dtype=np.int32),
        recall_target=0.99,
        exact_below=0,
        seed=0,
        queries=queries,
    )
    _, scores = shard.search(queries, 100)
    exact = -np.sort(-(queries @ vectors.T), axis=1)[:, 99]
    assert (scores >= exact[:, None] - 1e-3).mean() >= 0.98


@pytest.mark.parametrize("n", [0, 3, 2_500])
def test_a_saved_shard_moves_and_answers_the_same(tmp_path: Path, n: int) -> None:
    """Every path inside is relative and nothing is a pickle."""
    shard = a_shard(normal(n, 8), exact_below=1_000)
    save_shard(shard, tmp_path / "a", "f00d")
    shutil.move(tmp_path / "a", tmp_path / "b")
    loaded = load_shard(tmp_path / "b", "f00d")
    queries = normal(4, 8, seed=9)
    for before, after in zip(shard.search(queries, 30), loaded.search(queries, 30), strict=True):
        assert (before == after).all()
    assert loaded.parameters == shard.parameters
    assert (len(loaded), loaded.nbytes) == (n, shard.nbytes)
    assert not list((tmp_path / "b").rglob("*.pkl"))


def test_a_shard_of_another_space_is_refused(tmp_path: Path) -> None:
    """The fingerprint is compared on loading."""
    save_shard(a_shard(normal(3, 8)), tmp_path, "f00d")
    with pytest.raises(SpaceMismatch, match="f00d"):
        load_shard(tmp_path, "beef")


def test_a_broken_shard_is_refused(tmp_path: Path) -> None:
    """A missing, truncated or foreign file is a corrupt bundle, not a crash."""
    save_shard(a_shard(normal(30, 8)), tmp_path / "whole", "f00d")
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*")]
    assert len(files) >= 3
    for name in files:
        broken = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", broken)
        (broken / name).unlink()
        with pytest.raises(BundleCorrupt):
            load_shard(broken, "f00d")
        shutil.rmtree(broken)
    (tmp_path / "whole" / "scann" / "scann_docids.pkl").write_bytes(b"")
    with pytest.raises(BundleCorrupt, match="pickle"):
        load_shard(tmp_path / "whole", "f00d")


def test_rows_and_vectors_of_different_builds_are_refused(tmp_path: Path) -> None:
    """A shard whose rows do not match its vectors would answer wrong items."""
    save_shard(a_shard(normal(30, 8)), tmp_path, "f00d")
    np.save(tmp_path / "rows.npy", np.arange(29, dtype=np.int32))
    with pytest.raises(BundleCorrupt, match="expected"):
        load_shard(tmp_path, "f00d")
    description = json.loads((tmp_path / "index.json").read_text()) | {"n": 29}
    (tmp_path / "index.json").write_text(json.dumps(description))
    with pytest.raises(BundleCorrupt, match="30 vectors and 29 rows"):
        load_shard(tmp_path, "f00d")


def test_threads_may_search_one_shard_at_once() -> None:
    """Concurrent readers get what a lone reader gets."""
    shard = a_shard(normal(2_500, 8), exact_below=0)
    queries = [normal(8, 8, seed=seed) for seed in range(16)]
    alone = [shard.search(query, 20)[0] for query in queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda query: shard.search(query, 20)[0], queries))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))
