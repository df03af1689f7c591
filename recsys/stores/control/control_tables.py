"""How a connection to the control store is opened, for SQLite and Postgres, and its tables made.

The tables are `control_schema`'s, and stand here by name for whoever reads or writes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateIndex, CreateTable

from recsys.errors import ConfigError, StoreError
from recsys.stores.control.control_schema import aliases as aliases
from recsys.stores.control.control_schema import experiments as experiments
from recsys.stores.control.control_schema import head as head
from recsys.stores.control.control_schema import history as history
from recsys.stores.control.control_schema import holdout as holdout
from recsys.stores.control.control_schema import leases as leases
from recsys.stores.control.control_schema import metadata, one_open
from recsys.stores.control.control_schema import plans as plans
from recsys.stores.control.control_schema import replicas as replicas
from recsys.stores.control.control_schema import required as required
from recsys.stores.control.control_schema import rollout_turns as rollout_turns
from recsys.stores.control.control_schema import rollouts as rollouts
from recsys.stores.control.control_schema import shadows as shadows
from recsys.stores.postgres_link import open_postgres

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for another writer of an SQLite file."""
_OPEN_ATTEMPTS = 50
_EXPECTED = (
    "expected an SQLAlchemy URL such as sqlite:///var/control.sqlite or"
    " postgresql+psycopg://user@host/database, with its driver installed"
)


def open_engine(url: str, *, writes: bool, is_durable: bool = True) -> Engine:
    """A lazily connecting engine whose transactions see one consistent state.

    Args:
        url: SQLAlchemy URL of SQLite or Postgres.
        writes: take the write lock at the start of a transaction, so that what was read in it
            still holds when it writes.
        is_durable: a transaction outlives a power cut; heartbeats, which are written anew every
            second, need no such promise and then cost no wait for the disk.

    Raises:
        ConfigError: the URL is no such URL, or its driver is missing.
    """
    place = _parsed(url)
    try:
        if place.get_backend_name() == "postgresql":
            return open_postgres(
                place, writes=writes, is_durable=is_durable, wait_ms=BUSY_TIMEOUT_MS
            )
        return _open_sqlite(place, writes=writes, is_durable=is_durable)
    except (ArgumentError, ImportError) as error:
        raise ConfigError(
            f"control store '{place}' cannot be opened: {error}; {_EXPECTED}"
        ) from error


def _parsed(text: str) -> URL:
    """The URL; the error of one that cannot be parsed keeps it back, a password may be in it."""
    try:
        place = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(f"the control store's URL cannot be read; {_EXPECTED}") from None
    if place.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError(f"control store '{place}' is of another kind; {_EXPECTED}")
    return place


def _open_sqlite(url: URL, *, writes: bool, is_durable: bool) -> Engine:
    engine = create_engine(url)
    pragmas = [
        f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
        f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}",
        # Evidence is kept through this engine too, and a person's rows leave no bytes behind.
        "PRAGMA secure_delete=1",
    ]

    def prepare(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        # The driver must not begin transactions on its own: it would begin them too late.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma)
        if writes and connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")
        entry.info["inode"] = _inode(engine)

    def check(_: object, entry: ConnectionPoolEntry, __: object) -> None:
        if entry.info["inode"] != _inode(engine):
            raise DisconnectionError("the database file was replaced")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "checkout", check)
    event.listen(engine, "begin", begin)
    return engine


def sqlite_file(engine: Engine) -> Path | None:
    """The database file, or None where the store is a server or in memory."""
    if engine.dialect.name != "sqlite" or engine.url.database in {None, "", ":memory:"}:
        return None
    return Path(str(engine.url.database))


def _inode(engine: Engine) -> int | None:
    """Tells the file that is there from the one a connection was opened on."""
    file = sqlite_file(engine)
    try:
        return None if file is None else file.stat().st_ino
    except FileNotFoundError:
        return None


def has_tables(engine: Engine) -> bool:
    """Whether the store was ever written."""
    return is_written(engine, head)


def create_tables(engine: Engine) -> None:
    """Make what is missing; any number of processes may do so at once."""
    make_together(engine, "control store", _create)


def is_written(engine: Engine, table: Table) -> bool:
    """Whether a store has this table; asking makes no file."""
    file = sqlite_file(engine)
    if file is not None and not file.exists():
        return False
    with engine.connect() as connection:
        return inspect(connection).has_table(table.name)


def make_together(engine: Engine, store: str, make: Callable[[Engine], None]) -> None:
    """Make the tables of a store, whoever else does so at this moment.

    Args:
        store: names it in an error.
        make: makes what is missing; called again where it lost a race.

    Raises:
        StoreError: the folder of its file cannot be made.
    """
    file = sqlite_file(engine)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{store} {file} cannot be made: {error.strerror}; "
                "check the setting data_dir and its permissions"
            ) from error
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            make(engine)
        except DatabaseError:
            # Turning the write-ahead log on, and Postgres' catalogue, know no waiting: the loser
            # of a race gets an error at once, and finds everything made when it comes back.
            if attempt == _OPEN_ATTEMPTS - 1:
                raise
        else:
            return


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
        connection.execute(CreateIndex(one_open, if_not_exists=True))
        if connection.execute(head.select()).first() is None:
            connection.execute(head.insert().values(id=1, revision=0))


def bump_revision(connection: Connection) -> None:
    """Tell pollers that there is something new to read."""
    connection.execute(head.update().values(revision=head.c.revision + 1))


def reaching(url: URL, run: Callable[[], T]) -> T:
    """What `run` answers.

    Raises:
        StoreError: the store cannot be used; with the reason and the mend.
    """
    try:
        return run()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error)
        raise StoreError(
            f"control store {url} cannot be used: {reason}; check that it runs"
            " and can be reached, or for a file its disk and permissions"
        ) from error
