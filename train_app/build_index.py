"""Item vectors to index shards on disk: shard s holds the rows r with r % n_shards == s."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recsys.bundles.bundle import space_fingerprint
from recsys.errors import BundleError
from recsys.index import ShardParameters, build_shard, save_shard
from recsys.settings import RetrievalSettings
from recsys.stages import VECTORS_FILE, shard_stage_name
from recsys.types import FloatArray

INDEX_DIR = "index"
_LOG_FILE = "build.log"


def build_index(
    bundle_dir: Path,
    retrieval: RetrievalSettings,
    *,
    seed: int,
    report: Callable[[str, float], None],
    queries: FloatArray | None = None,
) -> list[ShardParameters]:
    """Build `index/` of a bundle directory that holds the towers; starts over if it is there.

    Args:
        queries: [Q, D] user embeddings that the recall target must hold on too.

    Returns:
        What each shard was built with, with its measured recall.

    Raises:
        BundleError: the item vectors are missing or one is not finite.
    """
    from safetensors.numpy import load_file

    try:
        vectors: FloatArray = load_file(bundle_dir / VECTORS_FILE)["vectors"]
    except (OSError, KeyError) as error:
        raise BundleError(
            f"{bundle_dir / VECTORS_FILE} holds no vectors ({error}); train again"
        ) from error
    fingerprint = space_fingerprint(bundle_dir)
    shutil.rmtree(bundle_dir / INDEX_DIR, ignore_errors=True)
    log = bundle_dir.parent / _LOG_FILE
    parameters = []
    for number in range(retrieval.n_shards):
        rows = np.arange(number, len(vectors), retrieval.n_shards, dtype=np.int32)
        with native_messages_to(log):
            shard = build_shard(
                vectors[rows],
                rows,
                recall_target=retrieval.recall_target,
                exact_below=retrieval.exact_below,
                seed=seed + number,
                queries=queries,
            )
        save_shard(shard, bundle_dir / INDEX_DIR / shard_stage_name(number), fingerprint)
        parameters.append(shard.parameters)
        report("building the index", (number + 1) / retrieval.n_shards)
    return parameters


@contextmanager
def native_messages_to(path: Path) -> Generator[None]:
    """Send what native code writes to standard error to a file; ScaNN cannot be silenced."""
    kept = os.dup(2)
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
