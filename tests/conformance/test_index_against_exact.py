"""The sharded index against exact search on 200,000 clustered vectors, as the request path uses it.

Run with `-s` to see build time, recall and milliseconds per query.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from recsys.candidates import merge_top_k
from recsys.index import Shard, build_shard, load_shard, save_shard
from recsys.settings import RetrievalSettings
from recsys.types import FloatArray

N_ITEMS, DIM, N_SHARDS, N_QUERIES, BATCH = 200_000, 64, 2, 512, 32


def clustered(n: int, seed: int) -> FloatArray:
    """[n, DIM] vectors around 1,000 centres of unequal sizes, of unequal lengths."""
    centres = np.random.default_rng(7).normal(size=(1_000, DIM))
    rng = np.random.default_rng(seed)
    centre = np.minimum(rng.zipf(1.3, size=n) - 1, rng.integers(0, 1_000, size=n))
    points = centres[centre] + 0.6 * rng.normal(size=(n, DIM))
    return (points * rng.lognormal(0, 0.2, size=(n, 1))).astype(np.float32)


def exact_kth_best(queries: FloatArray, vectors: FloatArray, k: int) -> FloatArray:
    """The k-th largest inner product of each query, [Q]."""
    kth = [
        np.partition(queries[start : start + 64] @ vectors.T, -k, axis=1)[:, -k]
        for start in range(0, len(queries), 64)
    ]
    return np.concatenate(kth)


@pytest.fixture(scope="module")
def vectors() -> FloatArray:
    """The items."""
    return clustered(N_ITEMS, seed=1)


@pytest.fixture(scope="module")
def shards(vectors: FloatArray, tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    """Shard s holds the rows r with r % N_SHARDS == s, saved and loaded again."""
    directory: Path = tmp_path_factory.mktemp("index")
    retrieval = RetrievalSettings()
    started = perf_counter()
    for number in range(N_SHARDS):
        rows = np.arange(number, N_ITEMS, N_SHARDS, dtype=np.int32)
        shard = build_shard(
            vectors[rows],
            rows,
            recall_target=retrieval.recall_target,
            exact_below=retrieval.exact_below,
            seed=0,
        )
        save_shard(shard, directory / str(number), "space")
    print(f"\nbuilt and tuned {N_SHARDS} shards in {perf_counter() - started:.1f} s")
    return [load_shard(directory / str(number), "space") for number in range(N_SHARDS)]


@pytest.mark.parametrize("k", [100, 200])
def test_merged_shards_find_what_exact_search_finds(
    shards: list[Shard], vectors: FloatArray, k: int
) -> None:
    """Recall@k is at least 0.95 on queries the index was not tuned on, and every score is exact."""
    queries = clustered(N_QUERIES, seed=2)
    started = perf_counter()
    batches = []
    for start in range(0, N_QUERIES, BATCH):
        found = [shard.search(queries[start : start + BATCH], k) for shard in shards]
        batches.append(merge_top_k([rows for rows, _ in found], [s for _, s in found], k))
    ms_per_query = (perf_counter() - started) / N_QUERIES * 1e3
    rows = np.concatenate([batch_rows for batch_rows, _ in batches])
    scores = np.concatenate([batch_scores for _, batch_scores in batches])
    kth = exact_kth_best(queries, vectors, k)
    recall = float((scores >= kth[:, None] - 1e-4).mean())
    print(f"k={k}: recall {recall:.4f}, {ms_per_query:.3f} ms a query over both shards, batch 32")
    assert recall >= 0.95
    assert np.allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-2)
    assert all(len(set(row)) == k for row in rows.tolist())


def test_each_shard_measured_the_recall_it_was_asked_for(shards: list[Shard]) -> None:
    """The figure a bundle carries is at least the target."""
    for shard in shards:
        assert shard.parameters.kind == "tree"
        assert shard.parameters.recall >= RetrievalSettings().recall_target
        print(shard.parameters)
