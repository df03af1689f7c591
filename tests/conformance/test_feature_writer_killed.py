"""A writer that is killed again and again counts everything once, in every feature store."""

from __future__ import annotations

import random
import signal
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from recsys.stores.features.feature_store import FeatureStore
from tests.count_features import HISTORY_LIMIT, ITEMS, USERS, count_features
from tests.feature_backends import BACKENDS, FeatureBackend, a_feature_backend

N_BATCHES = 400
N_KILLS = 6
DEADLINE_S = 60


def started(backend: FeatureBackend, reader: FeatureStore) -> BaseProcess:
    """A process that writes."""
    # SQLite must have no file open across a fork.
    reader.close()
    process = get_context("fork").Process(
        target=count_features, args=(backend.settings, N_BATCHES), daemon=True
    )
    process.start()
    return process


def await_offset(reader: FeatureStore, offset: int, process: BaseProcess) -> None:
    """Until so much is stored, or the process has ended."""
    give_up_at = time.monotonic() + DEADLINE_S
    while reader.offsets().get(0, 0) < offset and process.is_alive():
        assert time.monotonic() < give_up_at
        time.sleep(0.001)


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_writer_killed_at_any_moment_counts_every_batch_once(kind: str, tmp_path: Path) -> None:
    """Values and offset are stored together or not at all."""
    rng = random.Random(5)
    with a_feature_backend(kind, tmp_path) as backend:
        reader = backend.reader()
        n_killed = 0
        for n in range(N_KILLS):
            process = started(backend, reader)
            await_offset(reader, 60 * n + rng.randrange(1, 50), process)
            process.kill()
            process.join()
            n_killed += process.exitcode == -signal.SIGKILL
        assert n_killed == N_KILLS
        process = started(backend, reader)
        process.join(DEADLINE_S)
        assert process.exitcode == 0
        assert reader.offsets() == {0: N_BATCHES}
        for state in reader.read_users(USERS):
            assert state.version == N_BATCHES
            times = [event.timestamp_ms for event in state.history]
            assert times == list(range(N_BATCHES - HISTORY_LIMIT, N_BATCHES))
        writer = backend.writer()
        contents = writer.contents()
        assert set(contents.item_counts.values()) == {(N_BATCHES, 2 * N_BATCHES)}
        assert set(contents.pair_counts.values()) == {N_BATCHES}
        assert len(contents.pair_counts) == len(ITEMS)
        assert contents.n_seen == {0: N_BATCHES}
        writer.close()
        reader.close()
