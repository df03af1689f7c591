"""The tables of the embedded feature store: their layout, and the rows read from them.

Knows rows, not how they are computed; `feature_writer` writes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from recsys.events import CatalogueChange
from recsys.feature_definitions import (
    WINDOWS_S,
    ItemCounts,
    bucket_of,
    bucket_width_ms,
    first_bucket,
    summed_counts,
)
from recsys.stores.features import feature_history
from recsys.stores.sqlite_file import Layout
from recsys.types import HistoryEvent, Item, UserState
from recsys.user_hash import user_hash

DELETED_INDEX = "CREATE INDEX IF NOT EXISTS deleted_items ON catalogue (item_id) WHERE deleted"
"""Deleted items are found without reading the whole catalogue; a file may lack it."""
LAYOUT = Layout(
    name="feature store",
    version=3,
    tables=(
        "CREATE TABLE IF NOT EXISTS partitions (partition INTEGER PRIMARY KEY,"
        " next_offset INTEGER NOT NULL, watermark_ms INTEGER NOT NULL,"
        " pairs_since_day INTEGER NOT NULL, seen_since_ms INTEGER NOT NULL)",
        "CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, version INTEGER NOT NULL,"
        " history BLOB NOT NULL)",
        # The partition stands last: one item's counts of a bucket lie together for readers.
        "CREATE TABLE IF NOT EXISTS item_counts (window_s INTEGER NOT NULL,"
        " bucket_ms INTEGER NOT NULL, item_id TEXT NOT NULL, partition INTEGER NOT NULL,"
        " positives INTEGER NOT NULL, negatives INTEGER NOT NULL,"
        " PRIMARY KEY (window_s, bucket_ms, item_id, partition)) WITHOUT ROWID",
        # The day stands before the items: writes stay in the part of the tree that is in memory.
        "CREATE TABLE IF NOT EXISTS pairs (partition INTEGER NOT NULL, day INTEGER NOT NULL,"
        " item_id TEXT NOT NULL, other_id TEXT NOT NULL, n INTEGER NOT NULL,"
        " PRIMARY KEY (partition, day, item_id, other_id)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS pair_degrees (item_id TEXT PRIMARY KEY, n INTEGER NOT NULL)"
        " WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS stale_neighbours (place INTEGER PRIMARY KEY,"
        " item_id TEXT NOT NULL UNIQUE)",
        # The version of a list is its place among all changes of lists.
        "CREATE TABLE IF NOT EXISTS neighbours (version INTEGER PRIMARY KEY,"
        " item_id TEXT NOT NULL UNIQUE, ranked BLOB NOT NULL)",
        "CREATE TABLE IF NOT EXISTS imported_counts (item_id TEXT PRIMARY KEY, n INTEGER NOT NULL)"
        " WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS lists (name TEXT NOT NULL, rank INTEGER NOT NULL,"
        " item_id TEXT NOT NULL, score REAL NOT NULL, PRIMARY KEY (name, rank)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS catalogue (version INTEGER PRIMARY KEY,"
        " item_id TEXT NOT NULL UNIQUE, deleted INTEGER NOT NULL, fields BLOB NOT NULL)",
        "CREATE TABLE IF NOT EXISTS seen (partition INTEGER NOT NULL, event_key INTEGER NOT NULL,"
        " seen_ms INTEGER NOT NULL, PRIMARY KEY (partition, event_key)) WITHOUT ROWID",
        "CREATE INDEX IF NOT EXISTS seen_by_time ON seen (partition, seen_ms)",
        DELETED_INDEX,
    ),
    page_bytes=8192,
    mend="start the feature workers, which set it aside and make it anew from lake and log",
    synchronous="NORMAL",
)

# The plus keeps the planner from walking the whole table in order of its key.
SELECT_DELETED = "SELECT item_id FROM catalogue WHERE deleted AND +version <= ?"
POPULAR, IMPORTED, TRENDING = "popular", "imported", "trending"
"""Names in `lists`."""
MAX_IDS_PER_QUERY = 512


class _ItemFields(msgspec.Struct, array_like=True, frozen=True):
    title: str
    categories: tuple[str, ...]
    creator: str
    created_ms: int | None


_encoder = msgspec.msgpack.Encoder()
_fields_decoder = msgspec.msgpack.Decoder(_ItemFields)
_ranked_decoder = msgspec.msgpack.Decoder(list[tuple[str, float]])


def select_users(connection: sqlite3.Connection, user_ids: Sequence[str]) -> dict[str, UserState]:
    """The stored states among these users."""
    found: dict[str, UserState] = {}
    for start in range(0, len(user_ids), MAX_IDS_PER_QUERY):
        ids = user_ids[start : start + MAX_IDS_PER_QUERY]
        query = f"SELECT user_id, version, history FROM users WHERE user_id IN ({marks(ids)})"
        for user_id, version, history in connection.execute(query, ids).fetchall():
            found[user_id] = UserState(user_id, decode_history(user_id, history), version)
    return found


def select_popular(connection: sqlite3.Connection, limit: int) -> list[tuple[str, float]]:
    """The live list, or the imported one as long as there is no live one."""
    live = select_list(connection, POPULAR, limit)
    return live or select_list(connection, IMPORTED, limit)


def select_list(connection: sqlite3.Connection, name: str, limit: int) -> list[tuple[str, float]]:
    """At most `limit` entries of a list, best first."""
    query = "SELECT item_id, score FROM lists WHERE name = ? ORDER BY rank LIMIT ?"
    return connection.execute(query, (name, limit)).fetchall()


def select_neighbours(
    connection: sqlite3.Connection, item_ids: Sequence[str], limit: int
) -> list[list[tuple[str, float]]]:
    """At most `limit` neighbours of each item, in the order asked for."""
    found: dict[str, list[tuple[str, float]]] = {}
    for start in range(0, len(item_ids), MAX_IDS_PER_QUERY):
        ids = item_ids[start : start + MAX_IDS_PER_QUERY]
        query = f"SELECT item_id, ranked FROM neighbours WHERE item_id IN ({marks(ids)})"
        for item_id, ranked in connection.execute(query, ids).fetchall():
            found[item_id] = _decode_ranked(item_id, ranked)[:limit]
    return [found.get(item_id, []) for item_id in item_ids]


def select_changed_neighbours(
    connection: sqlite3.Connection, since_version: int, limit: int, max_lists: int
) -> tuple[dict[str, list[tuple[str, float]]], int]:
    """At most `limit` neighbours of so many items changed after a version, and the last version."""
    query = (
        "SELECT version, item_id, ranked FROM neighbours WHERE version > ? ORDER BY version LIMIT ?"
    )
    rows = connection.execute(query, (since_version, max_lists)).fetchall()
    found = {item_id: _decode_ranked(item_id, ranked)[:limit] for _, item_id, ranked in rows}
    return found, rows[-1][0] if rows else since_version


def select_neighbours_version(connection: sqlite3.Connection) -> int:
    """The version of the neighbours that were written last."""
    query = "SELECT coalesce(max(version), 0) FROM neighbours"
    return int(connection.execute(query).fetchone()[0])


def select_item_counts(
    connection: sqlite3.Connection, item_ids: Sequence[str], now_ms: int
) -> list[ItemCounts]:
    """The window counts of items at a time over all partitions, in the order asked for."""
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for start in range(0, len(item_ids), MAX_IDS_PER_QUERY):
        ids = item_ids[start : start + MAX_IDS_PER_QUERY]
        query = (
            "SELECT item_id, bucket_ms, positives, negatives FROM item_counts"
            f" WHERE window_s = ? AND bucket_ms IN (SELECT value FROM json_each(?))"
            f" AND item_id IN ({marks(ids)})"
        )
        for window_s in WINDOWS_S:
            buckets = _buckets(now_ms, window_s)
            for item_id, *counts in connection.execute(query, (window_s, buckets, *ids)):
                bucket_ms, n_positive, n_negative = counts
                entry = (window_s, bucket_ms, n_positive, n_negative)
                found.setdefault(item_id, []).append(entry)
    return [ItemCounts(i, summed_counts(found.get(i, ()), now_ms)) for i in item_ids]


def select_offsets(connection: sqlite3.Connection) -> dict[int, int]:
    """The next log offset of every partition read so far."""
    return dict(connection.execute("SELECT partition, next_offset FROM partitions").fetchall())


def select_identity(connection: sqlite3.Connection) -> int:
    """What tells these contents from those of a store made anew; 0 where no writer gave any."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def select_catalogue_version(connection: sqlite3.Connection) -> int:
    """The version of the newest catalogue change."""
    query = "SELECT coalesce(max(version), 0) FROM catalogue"
    return int(connection.execute(query).fetchone()[0])


def select_deleted(connection: sqlite3.Connection, version: int) -> frozenset[str]:
    """The items that are deleted as of a version."""
    return frozenset(row[0] for row in connection.execute(SELECT_DELETED, (version,)).fetchall())


def select_items(
    connection: sqlite3.Connection, since_version: int, version: int
) -> tuple[Item, ...]:
    """The items put after one version and up to another, oldest change first."""
    query = (
        "SELECT item_id, fields FROM catalogue"
        " WHERE version > ? AND version <= ? AND NOT deleted ORDER BY version"
    )
    rows = connection.execute(query, (since_version, version)).fetchall()
    return tuple(
        Item(item_id, *msgspec.structs.astuple(decode_fields(item_id, fields)))
        for item_id, fields in rows
    )


def marks(values: Sequence[object]) -> str:
    """The placeholders of so many values."""
    return ",".join("?" * len(values))


def decode_history(user_id: str, blob: bytes) -> Sequence[HistoryEvent]:
    """The history in a column.

    Raises:
        sqlite3.DatabaseError: the column is damaged.
    """
    try:
        return feature_history.decode_history(blob)
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"history of {user_hash(user_id)}: {error}") from error


def encode_fields(change: CatalogueChange) -> bytes:
    """An item's fields as their column holds them."""
    return _encoder.encode(
        _ItemFields(change.title, change.categories, change.creator, change.created_ms)
    )


def decode_fields(item_id: str, blob: bytes) -> _ItemFields:
    """Title, categories, creator and time of an item, from their column.

    Raises:
        sqlite3.DatabaseError: the column is damaged.
    """
    try:
        return _fields_decoder.decode(blob)
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"fields of item {item_id!r}: {error}") from error


def encode_ranked(ranked: Sequence[tuple[str, float]]) -> bytes:
    """Neighbours as their column holds them."""
    return _encoder.encode(ranked)


def _decode_ranked(item_id: str, blob: bytes) -> list[tuple[str, float]]:
    try:
        return _ranked_decoder.decode(blob)
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"neighbours of item {item_id!r}: {error}") from error


def _buckets(now_ms: int, window_s: int) -> str:
    last = bucket_of(now_ms, window_s)
    starts = range(first_bucket(now_ms, window_s), last + 1, bucket_width_ms(window_s))
    return msgspec.json.encode(list(starts)).decode()
