"""Writes made-up histories of any size as files to import, a part of the users at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

EVENTS_PER_USER = 100
_EVENTS_PER_SESSION = 10
_USERS_AT_ONCE = 5_000
_ITEMS_PER_TOPIC = 100
_ZIPF = 0.9
_LAST_S = 1_750_000_000
_DAYS = 120
_KINDS = np.asarray(["view", "click", "like"])
_KIND_SHARES = (0.7, 0.25, 0.05)


def write_history(folder: Path, n_users: int, n_items: int, seed: int) -> tuple[Path, Path]:
    """Write engagements as Parquet files and items as CSV; the folder of the first, the second.

    A session stays with one topic; topics, and items in a topic, are drawn by Zipf's law.
    """
    engagements, items = folder / "engagements", folder / "items.csv"
    engagements.mkdir(parents=True, exist_ok=True)
    _write_items(items, n_items)
    for part, start in enumerate(range(0, n_users, _USERS_AT_ONCE)):
        users = np.arange(start, min(start + _USERS_AT_ONCE, n_users))
        table = _histories(users, n_items, np.random.default_rng((seed, part)))
        pq.write_table(table, engagements / f"part-{part:04}.parquet")
    return engagements, items


def _write_items(path: Path, n_items: int) -> None:
    with path.open("w") as file:
        file.write("item_id,title,categories,creator\n")
        for item in range(n_items):
            topic = item // _ITEMS_PER_TOPIC
            file.write(f"item-{item},Item {item} of topic {topic},topic-{topic},by-{item % 977}\n")


def _histories(users: NDArray[np.int64], n_items: int, rng: np.random.Generator) -> pa.Table:
    n_sessions = EVENTS_PER_USER // _EVENTS_PER_SESSION
    shape = (len(users), n_sessions, _EVENTS_PER_SESSION)
    n_topics = max(n_items // _ITEMS_PER_TOPIC, 1)
    topics = _zipf(n_topics, (len(users), n_sessions, 1), rng)
    items = topics * _ITEMS_PER_TOPIC + _zipf(min(_ITEMS_PER_TOPIC, n_items), shape, rng)
    begins_s = _LAST_S - rng.integers(0, _DAYS * 86_400, (len(users), n_sessions, 1))
    times_s = begins_s + np.cumsum(rng.integers(5, 240, shape), axis=2)
    kinds = rng.choice(len(_KINDS), shape, p=_KIND_SHARES)
    owners = np.repeat(users, EVENTS_PER_USER)
    return pa.table(
        {
            "user_id": np.char.add("user-", owners.astype(str)),
            "item_id": np.char.add("item-", items.reshape(-1).astype(str)),
            "timestamp": times_s.reshape(-1),
            "kind": _KINDS[kinds.reshape(-1)],
        }
    )


def _zipf(n: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers below n, the first the most frequent."""
    shares = np.cumsum(1.0 / np.arange(1, n + 1) ** _ZIPF)
    drawn = np.searchsorted(shares, rng.random(shape) * shares[-1])
    return np.asarray(np.minimum(drawn, n - 1), np.int64)
