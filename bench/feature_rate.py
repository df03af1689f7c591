"""The feature stream's speed on the embedded stores: `python -m bench.feature_rate`.

Events a second with windows and pairs on, how soon an appended event is readable while others
arrive, and how large the store has become.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.features.feature_update import MergedUsers
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import SqliteEventLog
from recsys.types import HistoryEvent, UserState
from train_app.following.features.stream_features import FeatureStream

NOW_MS = 1_790_000_000_000
KINDS = ("view", "click", "dismiss")
_BATCH = 100
_ZIPF = 1.1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.feature_rate", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--history", type=int, default=200, help="events every user has before")
    parser.add_argument("--rate", type=int, default=1_000, help="events/s of the freshness run")
    parser.add_argument("--seconds", type=int, default=15, help="length of the freshness run")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def engagements(
    n_events: int, n_users: int, n_items: int, seed: int, start_ms: int = NOW_MS
) -> Iterator[Engagement]:
    """Events a millisecond apart: users alike, items by Zipf's law."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, n_items + 1) ** _ZIPF
    items = rng.choice(n_items, n_events, p=weights / weights.sum())
    users = rng.integers(0, n_users, n_events)
    kinds = rng.choice(len(KINDS), n_events, p=[0.6, 0.38, 0.02])
    for n in range(n_events):
        yield Engagement(
            event_id=f"{seed}-{n:012d}",
            kind=KINDS[kinds[n]],
            user_id=f"user-{users[n]:07d}",
            item_id=f"item-{items[n]:07d}",
            timestamp_ms=start_ms + n,
            received_at_ms=start_ms + n,
            origin="simulation",
        )


def fill_histories(settings: Settings, n_users: int, n_items: int, n_events: int) -> None:
    """Give every user a history, so that each event rewrites one of full length."""
    rng = np.random.default_rng(3)
    writer = SqliteFeatureWriter(settings.feature_path)
    for first in range(0, n_users, 500):
        states = []
        for user in range(first, min(n_users, first + 500)):
            items = rng.integers(0, n_items, n_events).tolist()
            history = tuple(
                HistoryEvent(f"item-{item:07d}", "view", NOW_MS - 10**9 + n)
                for n, item in enumerate(items)
            )
            states.append(UserState(f"user-{user:07d}", history, n_events))
        merged = MergedUsers(tuple(states))
        writer.merge_users([], lambda _, merged=merged: merged)  # type: ignore[misc]
    writer.close()


def append_all(log: SqliteEventLog, events: Iterator[Engagement]) -> None:
    """Append in batches as clients send them."""
    batch: list[Engagement] = []
    for event in events:
        batch.append(event)
        if len(batch) == _BATCH:
            log.append(batch)
            batch = []
    log.append(batch)


def catch_up(settings: Settings) -> dict[str, Any]:
    """Fold everything the log has, from an empty store's first record to its last."""
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    stream = FeatureStream(log, SqliteFeatureWriter(settings.feature_path), settings)
    partitions = list(log.end_offsets())
    started_s, cpu_s = time.perf_counter(), time.process_time()
    n_events = 0
    while n := stream.run_once(partitions):
        n_events += n
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    stream.close()
    log.close()
    return {
        "events": n_events,
        "events_per_s": round(n_events / wall_s),
        "events_per_cpu_s": round(n_events / cpu_s),
    }


def _send(settings: Settings, arguments: argparse.Namespace, sent: Any) -> None:
    """Append at a steady rate, and tell the log's ends after every append with the time."""
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    n_events = arguments.rate * arguments.seconds
    per_turn = max(1, arguments.rate // 20)
    start_ms = NOW_MS + arguments.events
    events = engagements(n_events, arguments.users, arguments.items, 2, start_ms)
    due_s = time.monotonic()
    for _ in range(n_events // per_turn):
        log.append([next(events) for _ in range(per_turn)])
        sent.put((log.end_offsets(), time.monotonic()))
        due_s += per_turn / arguments.rate
        time.sleep(max(0.0, due_s - time.monotonic()))
    sent.put(None)
    log.close()


def _follow(settings: Settings, stopping: threading.Event, turns: list[float]) -> None:
    """Turn as the worker does."""
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    stream = FeatureStream(log, SqliteFeatureWriter(settings.feature_path), settings)
    partitions = list(log.end_offsets())
    while not stopping.is_set():
        started_s = time.monotonic()
        n_taken = stream.run_once(partitions)
        turns.append(time.monotonic() - started_s)
        if not n_taken:
            stopping.wait(settings.features.poll_interval_s)
    stream.close()
    log.close()


def freshness(settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    """From the end of an append to the moment a reader sees what it changed."""
    sent: Any = multiprocessing.get_context("spawn").Queue()
    sender = multiprocessing.get_context("spawn").Process(
        target=_send, args=(settings, arguments, sent)
    )
    turns: list[float] = []
    stopping = threading.Event()
    follower = threading.Thread(target=_follow, args=(settings, stopping, turns))
    follower.start()
    sender.start()
    store = SqliteFeatureStore(settings.feature_path)
    latencies_s = []
    while (entry := sent.get(timeout=120)) is not None:
        ends, appended_s = entry
        while any(store.offsets().get(p, 0) < end for p, end in ends.items()):
            time.sleep(0.002)
        latencies_s.append(time.monotonic() - appended_s)
    sender.join()
    stopping.set()
    follower.join()
    milliseconds = 1000 * np.array(latencies_s)
    return {
        "rate": arguments.rate,
        "p50_ms": round(float(np.percentile(milliseconds, 50))),
        "p99_ms": round(float(np.percentile(milliseconds, 99))),
        "max_ms": round(float(milliseconds.max())),
        "longest_turn_ms": round(1000 * max(turns)),
    }


def size_of(settings: Settings, n_events: int) -> dict[str, Any]:
    """Bytes on disk, and where the rows are."""
    size = settings.feature_path.stat().st_size
    return {"megabytes": round(size / 1e6, 1), "bytes_per_event": round(size / max(1, n_events))}


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(data_dir=Path(directory))
        log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
        fill_histories(settings, arguments.users, arguments.items, arguments.history)
        append_all(log, engagements(arguments.events, arguments.users, arguments.items, 1))
        log.close()
        figures = {"catch_up": catch_up(settings)}
        figures["store"] = size_of(settings, arguments.events)
        figures["freshness"] = freshness(settings, arguments)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, values in figures.items():
        print(f"{name:10}", ", ".join(f"{key} {value:,}" for key, value in values.items()))


if __name__ == "__main__":
    main()
