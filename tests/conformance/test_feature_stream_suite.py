"""The feature stream over every store: one log, one outcome, wherever it is kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recsys.settings import FeatureSettings, Settings
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_store import FeatureStore
from recsys.stores.features.feature_update import FeatureWriter
from tests.fakes_event_log import MemoryEventLog
from tests.feature_backends import BACKENDS, a_feature_backend
from tests.feature_events import a_random_event
from train_app.following.features.stream_features import FeatureStream

FEATURES = FeatureSettings(history_limit=20, popular_limit=10, trending_limit=10, pair_days=2)
ITEMS = [f"i{n}" for n in range(12)]


def a_log() -> MemoryEventLog:
    """Late events, forgotten users, catalogue changes and repeated records."""
    rng = random.Random(11)
    log = MemoryEventLog(3)
    for n in range(400):
        log.append([a_random_event(n, rng)])
        if n % 10 == 9:
            (record, *_) = log.read(rng.randrange(3), 0, 1) or log.read(0, 0, 1)
            log.append_raw(record.partition, f"again{n}", record.value)
    return log


def follow(log: MemoryEventLog, writer: FeatureWriter, directory: Path) -> bytes:
    """Follow the log to its end in small turns, publish; what is stored then."""
    settings = Settings(data_dir=directory, features=FEATURES)
    clock = [0.0]
    stream = FeatureStream(
        log, writer, settings, log_may_repeat=True, max_records=60, clock_s=lambda: clock[0]
    )
    while stream.run_once(range(3)):
        pass
    clock[0] = 1.0
    assert stream.run_once(range(3)) == 0
    contents = writer.contents()
    stream.close()
    return canonical_bytes(contents)


def answers(store: FeatureStore) -> tuple[object, ...]:
    """What a reader is told."""
    return (
        store.neighbours(ITEMS, 5),
        store.popular(5),
        store.trending(5),
        store.offsets(),
        [state.history for state in store.read_users([f"u{n}" for n in range(9)])],
    )


@pytest.mark.parametrize("kind", BACKENDS)
def test_every_store_ends_with_what_the_embedded_one_has(kind: str, tmp_path: Path) -> None:
    """The same contents byte for byte, and the same answers."""
    log = a_log()
    found = []
    for name in ("sqlite", kind):
        directory = tmp_path / f"{name}-{len(found)}"
        directory.mkdir()
        with a_feature_backend(name, directory) as backend:
            stored = follow(log, backend.writer(), directory)
            reader = backend.reader()
            found.append((stored, answers(reader)))
            reader.close()
    assert found[0] == found[1]
    assert found[0][1][0] != [[] for _ in ITEMS]
