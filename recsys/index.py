"""One shard of the item index: build, tune, save, load and search by inner product (ScaNN).

Knows vectors and rows; not how shards are merged (`candidates`) or where they are served.

ScaNN: Guo et al., Accelerating Large-Scale Inference with Anisotropic Vector Quantization,
ICML 2020 (arXiv 1908.10396). A small shard is searched exactly; a larger one by a partitioning
tree, 4-bit codes and exact reordering, so every score answered is a true inner product.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scann.scann_ops.py import scann_ops_pybind

from recsys.errors import BundleCorrupt, BundleError, SpaceMismatch
from recsys.kernels.found import fill_found
from recsys.types import NO_ROW, FloatArray, RowArray

TUNED_K = 100
"""Recall is measured at this many neighbours."""
_MIN_FOR_TREE = 2_000
"""Below this a tree cannot beat the exact search, whatever the settings say."""
_N_QUERIES = 256
_MEASURE_BATCH = 32
_ITEMS_PER_LEAF = 100
_INDEX_FILE = "index.json"
_ROWS_FILE = "rows.npy"
_SEARCHER_DIR = "scann"
_PICKLED_FILE = "scann_docids.pkl"

Kind = Literal["empty", "exact", "tree"]


@dataclass(frozen=True, slots=True)
class ShardParameters:
    """What a shard was built with and what one search of it costs."""

    kind: Kind
    n_leaves: int = 0
    leaves_to_search: int = 0
    n_reordered: int = 0
    recall: float = 1.0
    """Measured recall@100 against exact search, 0-1."""


class Shard:
    """A searchable slice of the items; reading it from several threads is safe."""

    def __init__(
        self, searcher: Any, rows: RowArray, dim: int, nbytes: int, parameters: ShardParameters
    ) -> None:
        self._searcher = searcher
        self.rows = rows  # [n], ascending
        self.dim = dim
        self.nbytes = nbytes
        self.parameters = parameters
        if searcher is not None:
            searcher.set_num_threads(1)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.rows)

    def search(self, user_emb: FloatArray, k: int) -> tuple[RowArray, FloatArray]:
        """The `k` items of largest inner product with each query, best first, ties by row.

        Args:
            user_emb: [B, D]; a query that is not finite finds nothing.
            k: how many per query; what the shard cannot fill is padded with row -1, score -inf.

        Returns:
            Rows [B, k] and scores [B, k].

        Raises:
            SpaceMismatch: the queries have another width than the shard's vectors.
        """
        if user_emb.ndim != 2 or user_emb.shape[1] != self.dim:
            raise SpaceMismatch(
                f"a query of shape {user_emb.shape} met an index of vectors of width {self.dim}; "
                "use the user tower of the same bundle"
            )
        n_queries = len(user_emb)
        rows = np.full((n_queries, k), NO_ROW, np.int32)
        scores = np.full((n_queries, k), -np.inf, np.float32)
        n_found = min(k, len(self))
        if n_queries and n_found:
            found, found_scores = self._call(user_emb, n_found)
            fill_found(
                np.ascontiguousarray(found, np.uint32),
                np.ascontiguousarray(found_scores, np.float32),
                self.rows,
                rows,
                scores,
            )
        return rows, scores

    def _call(self, user_emb: FloatArray, k: int) -> tuple[NDArray[np.uint32], FloatArray]:
        queries = np.ascontiguousarray(user_emb, np.float32)
        tuned = self.parameters
        if tuned.kind == "exact":
            found, scores = self._searcher.search_batched(queries, k)
        else:
            # More neighbours than were tuned for need more leaves and more exact scores.
            scale = max(1.0, k / TUNED_K)
            found, scores = self._searcher.search_batched(
                queries,
                k,
                min(len(self), max(k, ceil(tuned.n_reordered * scale))),
                min(tuned.n_leaves, ceil(tuned.leaves_to_search * sqrt(scale))),
            )
        return found, scores

    def save(self, directory: Path) -> None:
        """Write the searcher's own files, paths relative, so that the directory can move."""
        if self._searcher is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self._searcher.serialize(str(directory), relative_path=True)


def build_shard(
    vectors: FloatArray,
    rows: RowArray,
    *,
    recall_target: float,
    exact_below: int,
    seed: int,
    queries: FloatArray | None = None,
) -> Shard:
    """Build a shard and tune its search until the measured recall@100 reaches the target.

    Args:
        vectors: [n, D] item vectors.
        rows: [n] the items' rows, unique.
        recall_target: recall@100 against exact search, 0-1.
        exact_below: a shard with fewer items is searched exactly.
        seed: of the sample of queries.
        queries: [Q, D] real user embeddings; the target must hold on them too.

    Raises:
        BundleError: a vector is not finite, or rows and vectors do not fit.
    """
    vectors, rows = _checked(vectors, rows)
    n_items, dim = vectors.shape
    if n_items == 0:
        return Shard(None, rows, dim, 0, ShardParameters("empty"))
    nbytes = vectors.nbytes + rows.nbytes
    builder = scann_ops_pybind.builder(vectors, min(TUNED_K, n_items), "dot_product")
    if n_items < max(exact_below, _MIN_FOR_TREE):
        searcher = builder.score_brute_force().build()
        return Shard(searcher, rows, dim, nbytes, ShardParameters("exact"))
    n_leaves = max(8, min(n_items // _ITEMS_PER_LEAF, ceil(4 * sqrt(n_items))))
    searcher = (
        builder.tree(n_leaves, max(1, n_leaves // 20), training_sample_size=min(n_items, 100_000))
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(2 * TUNED_K)
        .build()
    )
    searcher.set_num_threads(1)
    rng = np.random.default_rng(seed)
    probes = [vectors[rng.choice(n_items, min(_N_QUERIES, n_items), replace=False)]]
    if queries is not None and len(queries):
        probes.append(queries[rng.permutation(len(queries))[:_N_QUERIES]].astype(np.float32))
    tuned = _tune(_Probe(searcher, vectors, probes), n_leaves, n_items, recall_target)
    # The codes take D / 4 bytes an item beside the D * 4 of the exact vectors.
    return Shard(searcher, rows, dim, nbytes + vectors.nbytes // 16, tuned)


def save_shard(shard: Shard, directory: Path, fingerprint: str) -> None:
    """Write a shard under `directory`; the fingerprint names its embedding space."""
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / _ROWS_FILE, shard.rows, allow_pickle=False)
    shard.save(directory / _SEARCHER_DIR)
    description = {
        "fingerprint": fingerprint,
        "n": len(shard),
        "dim": shard.dim,
        "nbytes": shard.nbytes,
        "parameters": asdict(shard.parameters),
    }
    (directory / _INDEX_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load_shard(directory: Path, fingerprint: str) -> Shard:
    """Read a shard of the embedding space `fingerprint`.

    Raises:
        SpaceMismatch: the shard belongs to another space.
        BundleCorrupt: a file of it is missing or cannot be read.
    """
    try:
        description = json.loads((directory / _INDEX_FILE).read_text())
        found = description["fingerprint"]
        if found != fingerprint:
            raise SpaceMismatch(
                f"index {directory} is of embedding space {found}, the towers are of "
                f"{fingerprint}; use the index of the same bundle"
            )
        rows = np.load(directory / _ROWS_FILE, allow_pickle=False)
        if rows.dtype != np.int32 or rows.shape != (description["n"],):
            raise BundleCorrupt(
                f"index {directory}: {_ROWS_FILE} holds {rows.dtype}{list(rows.shape)}, expected "
                f"int32[{description['n']}]; publish the bundle again"
            )
        parameters = ShardParameters(**description["parameters"])
        searcher = None if parameters.kind == "empty" else _load_searcher(directory / _SEARCHER_DIR)
        if searcher is not None and searcher.size() != len(rows):
            raise BundleCorrupt(
                f"index {directory}: {searcher.size()} vectors and {len(rows)} rows; "
                "publish the bundle again"
            )
        return Shard(searcher, rows, description["dim"], description["nbytes"], parameters)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BundleCorrupt(
            f"index {directory} cannot be read ({error}); publish the bundle again"
        ) from error


def _load_searcher(directory: Path) -> Any:
    # ScaNN would unpickle this file; we never write it, so whoever did must not be obeyed.
    if (directory / _PICKLED_FILE).exists():
        raise BundleCorrupt(f"index {directory} holds a pickle, {_PICKLED_FILE}; remove the bundle")
    return scann_ops_pybind.load_searcher(str(directory), assets_backcompat_shim=False)


def _checked(vectors: FloatArray, rows: RowArray) -> tuple[FloatArray, RowArray]:
    if vectors.ndim != 2 or rows.shape != (len(vectors),):
        raise BundleError(
            f"vectors of shape {vectors.shape} and rows of shape {rows.shape} do not fit; "
            "one row per vector was expected"
        )
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise BundleError(
            f"the vector of item row {rows[broken][0]} is not finite ({broken.sum()} such rows); "
            "train again with a lower learning rate"
        )
    order = np.argsort(rows, kind="stable")
    rows = rows[order].astype(np.int32)
    if (np.diff(rows) == 0).any():
        raise BundleError("two vectors of a shard have the same item row; rows must be unique")
    in_order = bool((np.diff(order) == 1).all())
    chosen = vectors if in_order else vectors[order]
    return np.ascontiguousarray(chosen, np.float32), rows


class _Probe:
    """Measures recall@100 of a searcher against exact search, by score, so that ties are fair."""

    def __init__(self, searcher: Any, vectors: FloatArray, probes: list[FloatArray]) -> None:
        self._searcher = searcher
        self._k = min(TUNED_K, len(vectors))
        self._probes = [(queries, self._bounds(queries, vectors)) for queries in probes]

    def _bounds(self, queries: FloatArray, vectors: FloatArray) -> FloatArray:
        kth = []
        for start in range(0, len(queries), _MEASURE_BATCH):
            scores = queries[start : start + _MEASURE_BATCH] @ vectors.T
            kth.append(np.partition(scores, -self._k, axis=1)[:, -self._k])
        return np.concatenate(kth) if kth else np.zeros(0, np.float32)

    def recall(self, leaves_to_search: int, n_reordered: int) -> float:
        """The lowest recall over the sets of queries."""
        recalls = []
        for queries, bounds in self._probes:
            _, scores = self._searcher.search_batched(
                queries, self._k, n_reordered, leaves_to_search
            )
            slack = 1e-5 * np.maximum(np.abs(bounds), 1.0)
            recalls.append(float((scores >= (bounds - slack)[:, None]).mean()))
        return min(recalls)


def _tune(probe: _Probe, n_leaves: int, n_items: int, recall_target: float) -> ShardParameters:
    """The cheapest search that reaches the target: fewest leaves first, then fewest reordered."""
    for n_reordered in dict.fromkeys(min(n_items, TUNED_K * m) for m in (4, 16, 64, n_items)):
        if probe.recall(n_leaves, n_reordered) >= recall_target:
            break
    low, high = 0, max(1, n_leaves // 50)  # the target is missed at low, 0 leaves
    while high < n_leaves and probe.recall(high, n_reordered) < recall_target:
        low, high = high, min(n_leaves, 2 * high)
    while high - low > max(1, high // 10):
        middle = (low + high) // 2
        if probe.recall(middle, n_reordered) >= recall_target:
            high = middle
        else:
            low = middle
    for cheaper in (125, 150, 200, 300):
        if cheaper < n_reordered and probe.recall(high, cheaper) >= recall_target:
            n_reordered = cheaper
            break
    return ShardParameters("tree", n_leaves, high, n_reordered, probe.recall(high, n_reordered))
