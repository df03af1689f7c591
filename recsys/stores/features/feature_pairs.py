"""Pairs, how many pairs an item is in, and neighbour lists, in the embedded feature store.

Every function works inside the transaction of `feature_writer`, which alone calls them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from recsys.feature_definitions import day_of
from recsys.stores.features.feature_tables import encode_ranked, marks, select_neighbours_version
from recsys.stores.features.feature_update import PairDay, PairTotals, Ranked


def add_pairs(
    connection: sqlite3.Connection, partition: int, pair_counts: Mapping[PairDay, int]
) -> None:
    """Add to a partition's pairs, and mark the items as stale."""
    if not pair_counts:
        return
    # In the order of the tree: neighbouring rows share their pages.
    connection.executemany(
        "INSERT INTO pairs VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
        [(partition, *pair, n) for pair, n in sorted(pair_counts.items())],
    )
    degrees: Counter[str] = Counter()
    for (_, item_id, other_id), n in pair_counts.items():
        if item_id == other_id:
            degrees[item_id] += n
    _add_degrees(connection, degrees)
    _mark_stale(connection, (item_id for _, item_id, _ in pair_counts))


def expire_pairs(
    connection: sqlite3.Connection, partition: int, before_day: int, limit: int
) -> None:
    """Delete some of a partition's pairs of earlier days, and mark their items as stale."""
    expired = connection.execute(
        "DELETE FROM pairs WHERE (partition, day, item_id, other_id) IN"
        " (SELECT partition, day, item_id, other_id FROM pairs WHERE partition = ? AND day < ?"
        " LIMIT ?) RETURNING item_id, other_id, n",
        (partition, before_day, limit),
    ).fetchall()
    if not expired:
        return
    degrees: Counter[str] = Counter()
    for item_id, other_id, n in expired:
        if item_id == other_id:
            degrees[item_id] -= n
    _add_degrees(connection, degrees)
    connection.executemany(
        "DELETE FROM pair_degrees WHERE item_id = ? AND n <= 0", [(i,) for i in degrees]
    )
    _mark_stale(connection, (item_id for item_id, _, _ in expired))


def stale_items(connection: sqlite3.Connection, limit: int) -> list[str]:
    """The items whose neighbours wait longest to be made anew."""
    query = "SELECT item_id FROM stale_neighbours ORDER BY place LIMIT ?"
    return [row[0] for row in connection.execute(query, (limit,)).fetchall()]


def pair_totals(
    connection: sqlite3.Connection, item_ids: Sequence[str], since_day: int
) -> PairTotals:
    """The pairs of these items from a day on, over all partitions."""
    newest = connection.execute("SELECT coalesce(max(watermark_ms), 0) FROM partitions").fetchone()
    # An event may be dated an hour ahead of the watermark, into the day after it.
    days = list(range(since_day, day_of(newest[0]) + 2))
    rows = connection.execute(
        "SELECT item_id, other_id, sum(n) FROM pairs"
        " WHERE partition IN (SELECT partition FROM partitions)"
        f" AND day IN ({marks(days)}) AND item_id IN ({marks(item_ids)}) AND other_id <> item_id"
        " GROUP BY item_id, other_id",
        (*days, *item_ids),
    )
    pairs: dict[str, dict[str, int]] = {item_id: {} for item_id in item_ids}
    for item_id, other_id, n in rows:
        pairs[item_id][other_id] = n
    named = {*item_ids, *(other_id for partners in pairs.values() for other_id in partners)}
    degrees = connection.execute(
        "SELECT item_id, n FROM pair_degrees WHERE item_id IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(sorted(named)).decode(),),
    )
    return PairTotals(pairs, dict(degrees.fetchall()))


def write_neighbours(
    connection: sqlite3.Connection, item_ids: Sequence[str], ranked: Mapping[str, Ranked]
) -> None:
    """Replace the neighbours of these items, which are stale no longer.

    A list that is empty now stays as a row, so that readers learn of it.
    """
    version = select_neighbours_version(connection)
    connection.executemany(
        "INSERT OR REPLACE INTO neighbours VALUES (?, ?, ?)",
        [
            (own_version, item_id, encode_ranked(ranked.get(item_id, ())))
            for own_version, item_id in enumerate(item_ids, version + 1)
        ],
    )
    connection.executemany(
        "DELETE FROM stale_neighbours WHERE item_id = ?", [(item_id,) for item_id in item_ids]
    )


def _add_degrees(connection: sqlite3.Connection, degrees: Mapping[str, int]) -> None:
    connection.executemany(
        "INSERT INTO pair_degrees VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
        list(degrees.items()),
    )


def _mark_stale(connection: sqlite3.Connection, item_ids: Iterable[str]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO stale_neighbours (item_id) VALUES (?)",
        [(item_id,) for item_id in dict.fromkeys(item_ids)],
    )
