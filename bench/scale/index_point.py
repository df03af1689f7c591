"""One size of the index, measured: built, saved, loaded and searched as the product does it.

`python -m bench.scale.index_point build|search FOLDER ...` are the processes that
`bench.scale` starts, each for itself, so that memory of one is not counted with the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.scale.item_vectors import space_of
from recsys.candidates import merge_top_k
from recsys.index import TUNED_K, Shard, build_shard, load_shard, save_shard
from recsys.settings import RetrievalSettings
from recsys.types import FloatArray, RowArray
from train_app.build_index import native_messages_to

SEED = 0
N_QUERIES = 512
"""Fresh ones, which the shards were not tuned on."""
_FINGERPRINT = "bench"
_EXACT_FILE = "exact.npz"
_EXACT_BATCH = 32


def build(
    folder: Path, n_items: int, n_shards: int, dim: int, recall_target: float
) -> dict[str, Any]:
    """Build and save every shard, one at a time, and what exact search finds in all of them."""
    space, settings = space_of(n_items, dim, SEED), RetrievalSettings()
    tuned_on = space.users(N_QUERIES, np.random.default_rng((SEED, 1)))
    queries = space.users(N_QUERIES, np.random.default_rng((SEED, 2)))
    best = np.full((N_QUERIES, 0), 0.0, np.float32)
    seconds, recalls = 0.0, []
    for number in range(n_shards):
        rows = np.arange(number, n_items, n_shards, dtype=np.int32)
        vectors = space.items(len(rows), np.random.default_rng((SEED, 3, number)))
        began_s = time.perf_counter()
        with native_messages_to(folder / "build.log"):
            shard = build_shard(
                vectors,
                rows,
                recall_target=recall_target,
                exact_below=settings.exact_below,
                seed=number,
                queries=tuned_on,
            )
        save_shard(shard, folder / str(number), _FINGERPRINT)
        seconds += time.perf_counter() - began_s
        recalls.append(shard.parameters.recall)
        best = _best_scores(best, queries, vectors)
        print(f"  shard {number + 1} of {n_shards} built, {seconds:,.0f} s", file=sys.stderr)
        del shard, vectors
    np.savez(folder / _EXACT_FILE, queries=queries, scores=best)
    return {"build_s": seconds, "build_peak_mb": peak_mb(), "tuned_recall": min(recalls)}


def peak_mb() -> float:
    """The most memory that this process has had. `ru_maxrss` would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _best_scores(best: FloatArray, queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """The greatest scores of each query so far, best first, [Q, at most TUNED_K]."""
    found = []
    for start in range(0, len(queries), _EXACT_BATCH):
        scores = queries[start : start + _EXACT_BATCH] @ vectors.T
        k = min(TUNED_K, scores.shape[1])
        found.append(-np.partition(-scores, k - 1, axis=1)[:, :k])
    both = np.concatenate([best, np.concatenate(found)], axis=1)
    return np.asarray(-np.sort(-both, axis=1)[:, :TUNED_K])


class Index:
    """All shards of a size in one process, searched side by side."""

    def __init__(self, folder: Path, n_shards: int, n_threads: int) -> None:
        self._shards = [load_shard(folder / str(n), _FINGERPRINT) for n in range(n_shards)]
        self._pool = ThreadPoolExecutor(n_threads)

    async def search(self, query: FloatArray, k: int) -> tuple[RowArray, FloatArray]:
        """The `k` best items of one query over all shards, best first."""
        loop = asyncio.get_running_loop()
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(self._pool, shard.search, query[None], k)
                for shard in self._shards
            )
        )
        rows, scores = merge_top_k([part[0] for part in parts], [part[1] for part in parts], k)
        return rows[0], scores[0]

    def cpu_us(self, queries: FloatArray, k: int) -> float:
        """Processor time of one query at one shard, in microseconds, asked one by one."""
        shard: Shard = self._shards[0]
        began_s = time.process_time()
        for query in queries:
            shard.search(query[None], k)
        return (time.process_time() - began_s) * 1e6 / len(queries)


async def search(
    folder: Path, n_shards: int, rate: float, seconds: float, k: int
) -> dict[str, Any]:
    """Recall of fresh queries, and latency at a rate of Poisson arrivals that wait for nobody."""
    own = psutil.Process()
    before_mb = own.memory_info().rss / 2**20
    index = Index(folder, n_shards, psutil.cpu_count() or 1)
    exact = np.load(folder / _EXACT_FILE, allow_pickle=False)
    queries, bounds = exact["queries"], exact["scores"][:, -1]
    hits = []
    for query, bound in zip(queries, bounds, strict=True):
        _, scores = await index.search(query, TUNED_K)
        hits.append(float((scores >= bound - 1e-5 * max(abs(bound), 1.0)).mean()))
    cpu_us = index.cpu_us(queries, k)
    latencies_ms = await _at_rate(index, queries, rate, seconds, k)
    p50_ms, p99_ms = np.percentile(latencies_ms, (50, 99))
    return {
        "recall": float(np.mean(hits)),
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
        "n_searched": len(latencies_ms),
        "shard_cpu_us": cpu_us,
        "index_mb": own.memory_info().rss / 2**20 - before_mb,
        "serving_peak_mb": peak_mb(),
    }


async def _at_rate(
    index: Index, queries: FloatArray, rate: float, seconds: float, k: int
) -> list[float]:
    """Milliseconds from when each search was due until it was merged."""
    rng = np.random.default_rng(SEED)
    latencies_ms: list[float] = []

    async def one(query: FloatArray, due_s: float) -> None:
        await index.search(query, k)
        latencies_ms.append((time.perf_counter() - due_s) * 1000)

    due_s = time.perf_counter()
    end_s = due_s + seconds
    under_way = []
    while (due_s := due_s + float(rng.exponential(1 / rate))) < end_s:
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        query = queries[int(rng.integers(len(queries)))]
        under_way.append(asyncio.ensure_future(one(query, due_s)))
    await asyncio.gather(*under_way)
    return latencies_ms


def main() -> int:
    """Build or search, and print what was measured as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale.index_point", description=__doc__)
    parser.add_argument("step", choices=("build", "search"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--recall-target", type=float, default=0.95)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--candidates", type=int, default=200)
    asked = parser.parse_args()
    if asked.step == "build":
        found = build(asked.folder, asked.items, asked.shards, asked.dim, asked.recall_target)
    else:
        found = asyncio.run(
            search(asked.folder, asked.shards, asked.rate, asked.seconds, asked.candidates)
        )
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
