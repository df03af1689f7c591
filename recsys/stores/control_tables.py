"""Tables of the control store and how a connection to it is opened, for SQLite and Postgres.

Plan, aliases, required bundles, rollouts, their turns and history have one writer,
`cluster.rollouts.storing.control_writer`; the lease has
`cluster.rollouts.driving.controller_lease`; a replica's readiness rows have one writer, the
replica, through `control.ReadinessReporter`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateIndex, CreateTable

from recsys.errors import ConfigError, StoreError

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for another writer of an SQLite file."""
_OPEN_ATTEMPTS = 50

_Id = String(128)
_metadata = MetaData()

head = Table(
    "control_head",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
"""One row; the revision grows with every change of plan, aliases or required bundles."""

plans = Table(
    "control_plan",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

aliases = Table(
    "control_aliases",
    _metadata,
    Column("name", _Id, primary_key=True),
    Column("bundle_id", _Id, nullable=False),
)

required = Table(
    "control_required",
    _metadata,
    Column("position", Integer, primary_key=True),
    Column("bundle_id", _Id, nullable=False),
)

replicas = Table(
    "control_readiness",
    _metadata,
    Column("replica_id", String(256), primary_key=True),
    Column("bundle_id", _Id, primary_key=True),
    Column("stage", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("plan_epoch", BigInteger, nullable=False),
    Column("heartbeat_ms", BigInteger, nullable=False),
)

rollouts = Table(
    "control_rollouts",
    _metadata,
    Column("rollout_id", _Id, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("is_closed", Boolean, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("driver", String(256), nullable=False),
    Column("driven_ms", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)
_one_open = Index(
    "control_one_open_rollout",
    rollouts.c.is_closed,
    unique=True,
    sqlite_where=rollouts.c.is_closed.is_(False),
    postgresql_where=rollouts.c.is_closed.is_(False),
)

history = Table(
    "control_history",
    _metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", String(256), nullable=False),
    Column("verb", String(64), nullable=False),
    Column("what", Text, nullable=False),
    Column("why", Text, nullable=False),
)

rollout_turns = Table(
    "rollout_turns",
    _metadata,
    Column("rollout_id", _Id, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", String(256), nullable=False),
    Column("turn", Text, nullable=False),
    Column("after", Text, nullable=False),
)
"""What every move of a rollout was decided on; `number` is the revision it led to."""

leases = Table(
    "control_leases",
    _metadata,
    Column("name", _Id, primary_key=True),
    Column("owner", String(256), nullable=False),
    Column("renewed_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)
"""Who does what only one should do at a time; saves work, and is not what correctness rests on."""


def open_engine(url: str, *, writes: bool, is_durable: bool = True) -> Engine:
    """A lazily connecting engine whose transactions see one consistent state.

    Args:
        url: SQLAlchemy URL.
        writes: take the write lock at the start of a transaction, so that what was read in it
            still holds when it writes.
        is_durable: a transaction outlives a power cut; heartbeats, which are written anew every
            second, need no such promise and then cost no wait for the disk.
    """
    try:
        if not url.startswith("sqlite"):
            level = "SERIALIZABLE" if writes else "REPEATABLE READ"
            return create_engine(url, isolation_level=level, pool_pre_ping=True)
        engine = create_engine(url)
    except (ArgumentError, ImportError) as error:
        raise ConfigError(
            f"control store '{url}' cannot be opened: {error}; expected an SQLAlchemy URL such as "
            "sqlite:///var/control.sqlite, with its driver installed"
        ) from error

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
        for table in _metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
        connection.execute(CreateIndex(_one_open, if_not_exists=True))
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
