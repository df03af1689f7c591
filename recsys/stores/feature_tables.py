"""The tables of the embedded feature store: layout, queries, and the handle that writes them.

`FeatureWriter` is made by `train_app.following.stream_features` only.
Knows rows, not how they are computed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from recsys.events import CatalogueChange
from recsys.stores.sqlite_file import Layout, open_writable, store_errors, transaction
from recsys.types import HistoryEvent, Item, UserState

PopularOrigin = Literal["live", "import"]

LAYOUT = Layout(
    name="feature store",
    version=1,
    tables=(
        "CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, version INTEGER NOT NULL,"
        " history BLOB NOT NULL)",
        "CREATE TABLE IF NOT EXISTS live_counts (bucket_ms INTEGER NOT NULL, item_id TEXT NOT NULL,"
        " n INTEGER NOT NULL, PRIMARY KEY (bucket_ms, item_id)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS imported_counts (item_id TEXT PRIMARY KEY, n INTEGER NOT NULL)"
        " WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS popular (origin TEXT NOT NULL, rank INTEGER NOT NULL,"
        " item_id TEXT NOT NULL, score REAL NOT NULL, PRIMARY KEY (origin, rank)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS catalogue (version INTEGER PRIMARY KEY,"
        " item_id TEXT NOT NULL UNIQUE, deleted INTEGER NOT NULL, fields BLOB NOT NULL)",
        "CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY,"
        " next_offset INTEGER NOT NULL)",
    ),
    page_bytes=8192,
    mend="stop the cluster, delete it with its -wal and -shm files, and import the history again",
    synchronous="NORMAL",
)

_MAX_IDS_PER_QUERY = 512


class _ItemFields(msgspec.Struct, array_like=True, frozen=True):
    title: str
    categories: tuple[str, ...]
    creator: str
    created_ms: int | None


_encoder = msgspec.msgpack.Encoder()
_history_decoder = msgspec.msgpack.Decoder(tuple[HistoryEvent, ...])
_fields_decoder = msgspec.msgpack.Decoder(_ItemFields)


@dataclass(frozen=True, slots=True)
class FeatureUpdate:
    """Everything one batch of the log changes; applied in one transaction or not at all."""

    states: tuple[UserState, ...] = ()
    live_counts: Mapping[tuple[int, str], int] = field(default_factory=dict)
    """What to add, by (start of the bucket in ms, item id)."""
    expired_before_ms: int = 0
    """Buckets that start before this have left the live window."""
    newest_ms: int = 0
    """The newest event time seen so far."""
    catalogue: tuple[CatalogueChange, ...] = ()
    next_offsets: Mapping[int, int] = field(default_factory=dict)


def select_users(connection: sqlite3.Connection, user_ids: Sequence[str]) -> dict[str, UserState]:
    """The stored states among these users."""
    found: dict[str, UserState] = {}
    for start in range(0, len(user_ids), _MAX_IDS_PER_QUERY):
        ids = user_ids[start : start + _MAX_IDS_PER_QUERY]
        query = (
            "SELECT user_id, version, history FROM users"
            f" WHERE user_id IN ({','.join('?' * len(ids))})"
        )
        for user_id, version, history in connection.execute(query, ids).fetchall():
            found[user_id] = UserState(user_id, _history(user_id, history), version)
    return found


def select_popular(connection: sqlite3.Connection, limit: int) -> list[tuple[str, float]]:
    """The live list, or the imported one as long as there is no live one."""
    query = "SELECT item_id, score FROM popular WHERE origin = ? ORDER BY rank LIMIT ?"
    live = connection.execute(query, ("live", limit)).fetchall()
    return live or connection.execute(query, ("import", limit)).fetchall()


def select_offsets(connection: sqlite3.Connection) -> dict[int, int]:
    """The next log offset of every partition read so far."""
    return dict(connection.execute("SELECT partition, next_offset FROM offsets").fetchall())


def select_catalogue_version(connection: sqlite3.Connection) -> int:
    """The version of the newest catalogue change."""
    query = "SELECT coalesce(max(version), 0) FROM catalogue"
    return int(connection.execute(query).fetchone()[0])


def select_deleted(connection: sqlite3.Connection, version: int) -> frozenset[str]:
    """The items that are deleted as of a version."""
    query = "SELECT item_id FROM catalogue WHERE deleted AND version <= ?"
    return frozenset(row[0] for row in connection.execute(query, (version,)).fetchall())


def select_items(
    connection: sqlite3.Connection, since_version: int, version: int
) -> tuple[Item, ...]:
    """The items put after one version and up to another, oldest change first."""
    query = (
        "SELECT item_id, fields FROM catalogue"
        " WHERE version > ? AND version <= ? AND NOT deleted ORDER BY version"
    )
    rows = connection.execute(query, (since_version, version)).fetchall()
    return tuple(_item(item_id, fields) for item_id, fields in rows)


class FeatureWriter:
    """The handle that writes; several may be open, transactions keep them apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_writable(path, LAYOUT)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """What is read and written inside is one step that others see whole or not at all."""
        with store_errors(LAYOUT, self.path), transaction(self._connection):
            yield

    def users(self, user_ids: Sequence[str]) -> dict[str, UserState]:
        """The stored states among these users."""
        return select_users(self._connection, user_ids)

    def offsets(self) -> dict[int, int]:
        """The next log offset of every partition."""
        return select_offsets(self._connection)

    def newest_ms(self) -> int:
        """The newest event time seen; 0 before the first event."""
        query = "SELECT value FROM meta WHERE key = 'newest_ms'"
        row = self._connection.execute(query).fetchone()
        return int(row[0]) if row else 0

    def live_counts(self) -> list[tuple[int, str, int]]:
        """Every (start of the bucket in ms, item id, count) of the live window."""
        query = "SELECT bucket_ms, item_id, n FROM live_counts"
        return self._connection.execute(query).fetchall()

    def apply(self, update: FeatureUpdate) -> None:
        """Write one batch's changes with its offsets; call inside `transaction`."""
        self.write_users(update.states)
        self._connection.executemany(
            "INSERT INTO live_counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
            [(bucket_ms, item_id, n) for (bucket_ms, item_id), n in update.live_counts.items()],
        )
        self._connection.execute(
            "DELETE FROM live_counts WHERE bucket_ms < ?", (update.expired_before_ms,)
        )
        self._write_catalogue(update.catalogue)
        self.write_offsets(update.next_offsets)
        self._connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('newest_ms', ?)", (str(update.newest_ms),)
        )

    def write_offsets(self, next_offsets: Mapping[int, int]) -> None:
        """Replace the next log offsets of these partitions."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO offsets VALUES (?, ?)", list(next_offsets.items())
        )

    def write_users(self, states: Iterable[UserState]) -> None:
        """Replace the states of these users."""
        self._connection.executemany(
            "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET version = excluded.version, history = excluded.history",
            [(state.user_id, state.version, _encoder.encode(state.history)) for state in states],
        )

    def add_imported_counts(self, counts: Mapping[str, int]) -> None:
        """Add to the counts of the imported history."""
        self._connection.executemany(
            "INSERT INTO imported_counts VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET n = n + excluded.n",
            list(counts.items()),
        )

    def most_imported(self, limit: int) -> list[tuple[str, int]]:
        """The items of the imported history with the highest counts; equal counts by item id."""
        query = "SELECT item_id, n FROM imported_counts ORDER BY n DESC, item_id LIMIT ?"
        return self._connection.execute(query, (limit,)).fetchall()

    def write_popular(self, origin: PopularOrigin, ranked: Sequence[tuple[str, int]]) -> None:
        """Replace one popular list, most popular first."""
        self._connection.execute("DELETE FROM popular WHERE origin = ?", (origin,))
        self._connection.executemany(
            "INSERT INTO popular VALUES (?, ?, ?, ?)",
            [(origin, rank, item_id, float(n)) for rank, (item_id, n) in enumerate(ranked)],
        )

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def _write_catalogue(self, changes: Sequence[CatalogueChange]) -> None:
        """The newest change of an item replaces its earlier one under a new version."""
        version = select_catalogue_version(self._connection)
        rows = [
            (version + index, change.item_id, change.deleted, _encoder.encode(_fields(change)))
            for index, change in enumerate(changes, 1)
        ]
        self._connection.executemany("INSERT OR REPLACE INTO catalogue VALUES (?, ?, ?, ?)", rows)


def _history(user_id: str, blob: bytes) -> tuple[HistoryEvent, ...]:
    try:
        return _history_decoder.decode(blob)
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"history of user {user_id!r}: {error}") from error


def _fields(change: CatalogueChange) -> _ItemFields:
    return _ItemFields(change.title, change.categories, change.creator, change.created_ms)


def _item(item_id: str, blob: bytes) -> Item:
    try:
        fields = _fields_decoder.decode(blob)
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"fields of item {item_id!r}: {error}") from error
    return Item(item_id, fields.title, fields.categories, fields.creator, fields.created_ms)
