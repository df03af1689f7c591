"""The live store against columns of the same log: the same counts, at every point of the log."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events import Engagement, Event
from recsys.feature_columns import item_counts_as_of, late_events, user_counts_as_of
from recsys.feature_definitions import user_window_counts
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import LogRecord
from tests.feature_events import NOW_MS, RULES, a_part, an_engagement, log_records
from train_app.following.store_part import store_part

ITEMS = [f"i{n}" for n in range(6)]
USERS = [f"u{n}" for n in range(5)]
N_PARTITIONS = 3


def a_log(rng: random.Random, n_events: int) -> list[Event]:
    """Engagements that arrive out of order, some too late to count, some dated ahead."""
    return [
        an_engagement(
            rng.choice(ITEMS),
            NOW_MS + n * 60_000 - rng.choice([0, 0, 90_000, 3_000_000, 9_000_000, -1_200_000]),
            rng.choice(USERS),
            rng.choice(["click", "view", "dismiss"]),
            f"e{n}",
            NOW_MS + n * 60_000,
        )
        for n in range(n_events)
    ]


def compare(store: SqliteFeatureStore, seen: list[tuple[int, Engagement]], now_ms: int) -> None:
    """The store at this moment, against columns of what was folded, in order of arrival."""
    partitions = np.array([partition for partition, _ in seen])
    events = [event for _, event in seen]
    times = np.array([event.timestamp_ms for event in events], dtype=np.int64)
    received = np.array([event.received_at_ms for event in events], dtype=np.int64)
    negative = np.array([event.kind in RULES.negative_kinds for event in events])
    counted = ~late_events(partitions, times, received, RULES.lateness_ms)
    item_ids = np.array([event.item_id for event in events])
    user_ids = np.array([event.user_id for event in events])
    items = item_counts_as_of(
        item_ids[counted],
        times[counted],
        negative[counted],
        np.array(ITEMS),
        np.full(len(ITEMS), now_ms),
    )
    for row, live in enumerate(store.item_counts(ITEMS, now_ms)):
        assert live.counts.positives == tuple(items.positives[row])
        assert live.counts.negatives == tuple(items.negatives[row])
    users = user_counts_as_of(
        user_ids,
        times,
        negative,
        np.array(USERS),
        np.full(len(USERS), now_ms),
        RULES.history_limit,
    )
    for row, state in enumerate(store.read_users(USERS)):
        told = user_window_counts(state.history, now_ms, RULES.negative_kinds)
        assert told.positives == tuple(users.positives[row])
        assert told.negatives == tuple(users.negatives[row])


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_live_counts_equal_those_of_columns_all_along_the_log(seed: int) -> None:
    """After every run of records, for every item and user, exactly."""
    rng = random.Random(seed)
    log = log_records(a_log(rng, rng.randrange(20, 150)), N_PARTITIONS)
    at = dict.fromkeys(log, 0)
    seen: list[tuple[int, Engagement]] = []
    with tempfile.TemporaryDirectory() as directory:
        writer = SqliteFeatureWriter(Path(directory, "f"))
        store = SqliteFeatureStore(Path(directory, "f"))
        while behind := [p for p in log if at[p] < len(log[p])]:
            partition = rng.choice(behind)
            run: list[LogRecord] = log[partition][at[partition] : at[partition] + 15]
            part = a_part(run)
            assert store_part(writer, at[partition] or None, part, RULES) is not None
            at[partition] += len(run)
            seen += [(partition, e) for e in part.events if isinstance(e, Engagement)]
            newest_ms = max(event.timestamp_ms for _, event in seen)
            compare(store, seen, newest_ms + rng.choice([1, 200_000, 3_000_000]))
        store.close()
        writer.close()
