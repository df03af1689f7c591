"""The online feature store as serving reads it: histories, counts, lists and the catalogue.

Reading only; the one writer is `train_app.following.features.stream_features`, through
`feature_writer`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from recsys.feature_definitions import NO_COUNTS, ItemCounts
from recsys.stores.features import feature_tables
from recsys.stores.sqlite_file import open_readable, store_errors
from recsys.types import Item, UserState

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CatalogueView:
    """The live catalogue changes as of `version`."""

    version: int
    blocked: frozenset[str] = frozenset()
    """Every item that is deleted now."""
    items: tuple[Item, ...] = ()
    """Items put, and not deleted again, since the version asked for; oldest change first."""


@dataclass(frozen=True, slots=True)
class NeighbourMark:
    """How far somebody has read the neighbours that one store holds; nothing yet by default."""

    store: str = ""
    """Tells a store from one that was emptied or made anew; means nothing else."""
    version: int = 0


NOTHING_READ = NeighbourMark()


@dataclass(frozen=True, slots=True)
class NeighbourChanges:
    """The neighbours that changed since a mark."""

    mark: NeighbourMark
    """Where to go on."""
    lists: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    """By item: its neighbours now, best first; empty where it has none any more."""
    is_anew: bool = False
    """Lists are those of another store than the mark's: what was read before counts no more."""
    is_all: bool = True
    """Nothing changed beyond these lists."""


class FeatureStore(Protocol):
    """The online features, whatever keeps them. What is not stored is empty, never an error."""

    def read_users(self, user_ids: Sequence[str]) -> list[UserState]:
        """The states of many users at once, in the order asked for."""

    def popular(self, limit: int) -> list[tuple[str, float]]:
        """At most `limit` item ids with their scores, most popular first."""

    def trending(self, limit: int) -> list[tuple[str, float]]:
        """At most `limit` item ids with their trend scores, above expectation only, best first."""

    def neighbours(self, item_ids: Sequence[str], limit: int) -> list[list[tuple[str, float]]]:
        """At most `limit` items that go together with each item, best first."""

    def changed_neighbours(
        self, since: NeighbourMark, limit: int, max_lists: int
    ) -> NeighbourChanges:
        """The neighbours of at most `max_lists` items that changed after a mark, oldest first.

        Going on from mark to mark until `is_all`, and over again where `is_anew`, gives what
        `neighbours` answers for every item, at most `limit` each.
        """

    def item_counts(self, item_ids: Sequence[str], now_ms: int) -> list[ItemCounts]:
        """The window counts of many items at a time, in the order asked for."""

    def catalogue(self, since_version: int = 0) -> CatalogueView:
        """Deleted items, and the items put since a version."""

    def offsets(self) -> dict[int, int]:
        """The log offset up to which each partition is reflected (exclusive)."""

    def close(self) -> None:
        """Give the store back; the next read opens it again."""


class SqliteFeatureStore:
    """The embedded feature store, shared by any number of reading processes and threads.

    Args:
        path: the file; until a writer has made it, every answer is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Apart: a scan of the whole catalogue must not keep a request from its users.
        self._users = _Connection(path)
        self._rest = _Connection(path)
        self._blocked: tuple[str, int, frozenset[str]] = ("", 0, frozenset())

    def read_users(self, user_ids: Sequence[str]) -> list[UserState]:
        """The states of many users at once, in the order asked for.

        Raises:
            StoreError: the file cannot be read or is damaged.
        """
        empty: dict[str, UserState] = {}
        found = self._users.read(
            lambda connection: feature_tables.select_users(connection, user_ids), empty
        )
        return [found.get(user_id) or UserState(user_id) for user_id in user_ids]

    def popular(self, limit: int) -> list[tuple[str, float]]:
        """At most `limit` item ids with their scores, most popular first.

        Counts of the live window; before the first live event, counts of the imported history.
        """
        return self._rest.read(
            lambda connection: feature_tables.select_popular(connection, limit), []
        )

    def trending(self, limit: int) -> list[tuple[str, float]]:
        """At most `limit` item ids with their trend scores, above expectation only, best first."""
        name = feature_tables.TRENDING
        return self._rest.read(
            lambda connection: feature_tables.select_list(connection, name, limit), []
        )

    def neighbours(self, item_ids: Sequence[str], limit: int) -> list[list[tuple[str, float]]]:
        """At most `limit` items that go together with each item, best first."""
        return self._rest.read(
            lambda connection: feature_tables.select_neighbours(connection, item_ids, limit),
            [[] for _ in item_ids],
        )

    def changed_neighbours(
        self, since: NeighbourMark, limit: int, max_lists: int
    ) -> NeighbourChanges:
        """The neighbours of at most `max_lists` items that changed after a mark, oldest first."""

        def query(connection: sqlite3.Connection) -> NeighbourChanges:
            with _snapshot(connection):
                store = self._identity(connection)
                version = since.version if store == since.store else 0
                lists, version = feature_tables.select_changed_neighbours(
                    connection, version, limit, max_lists
                )
            mark = NeighbourMark(store, version)
            return NeighbourChanges(mark, lists, store != since.store, len(lists) < max_lists)

        no_store = NeighbourChanges(NOTHING_READ, is_anew=since != NOTHING_READ)
        return self._rest.read(query, no_store)

    def item_counts(self, item_ids: Sequence[str], now_ms: int) -> list[ItemCounts]:
        """The window counts of many items at a time, in the order asked for."""
        return self._rest.read(
            lambda connection: feature_tables.select_item_counts(connection, item_ids, now_ms),
            [ItemCounts(item_id, NO_COUNTS) for item_id in item_ids],
        )

    def catalogue(self, since_version: int = 0) -> CatalogueView:
        """Deleted items, and the items put since a version."""
        return self._rest.read(
            lambda connection: self._view(connection, since_version), CatalogueView(0)
        )

    def offsets(self) -> dict[int, int]:
        """The log offset up to which each partition is reflected (exclusive)."""
        return self._rest.read(feature_tables.select_offsets, {})

    def close(self) -> None:
        """Give the file back; the next read opens it again."""
        self._users.close()
        self._rest.close()

    def _view(self, connection: sqlite3.Connection, since_version: int) -> CatalogueView:
        # One snapshot: between two, a deleted item could be missing from both answers.
        with _snapshot(connection):
            return self._view_of_snapshot(connection, since_version)

    def _view_of_snapshot(
        self, connection: sqlite3.Connection, since_version: int
    ) -> CatalogueView:
        version = feature_tables.select_catalogue_version(connection)
        store = self._identity(connection)
        if self._blocked[:2] != (store, version):
            deleted = feature_tables.select_deleted(connection, version)
            self._blocked = (store, version, deleted)
        blocked = self._blocked[2]
        if since_version == version:
            return CatalogueView(version, blocked)
        items = feature_tables.select_items(connection, since_version, version)
        return CatalogueView(version, blocked, items)

    def _identity(self, connection: sqlite3.Connection) -> str:
        """Tells what is read now from what a file opened before, or copied over, held."""
        return f"{self._rest.n_opened}:{feature_tables.select_identity(connection)}"


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Generator[None]:
    """Everything read inside is as of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


class _Connection:
    """One connection to the store's file, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self.n_opened = 0
        """Tells what was read over one opening from what was read over the next."""

    def read(self, query: Callable[[sqlite3.Connection], _T], empty: _T) -> _T:
        """What the query answers; `empty` where there is no store."""
        with self._lock:
            connection = self._current()
            if connection is None:
                return empty
            try:
                with store_errors(feature_tables.LAYOUT, self._path):
                    return query(connection)
            except BaseException:
                self._forget()
                raise

    def close(self) -> None:
        """Give the file back; the next read opens it again."""
        with self._lock:
            self._forget()

    def _current(self) -> sqlite3.Connection | None:
        """The connection to the file that is there now: a rebuilt store replaces the old file."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if inode != self._inode or self._connection is None:
            self._forget()
            self._connection = open_readable(self._path, feature_tables.LAYOUT)
            self._inode = inode
            self.n_opened += 1
        return self._connection

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._inode = None, 0
