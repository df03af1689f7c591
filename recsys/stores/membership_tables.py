"""The table of worker replicas, kept in the control store, for SQLite and Postgres.

A row has one writer, the replica it names, through `membership.Membership`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Engine, Float, MetaData, String, Table, Text, inspect
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateTable

from recsys.errors import StoreError
from recsys.stores.control_tables import sqlite_file

_OPEN_ATTEMPTS = 50

members = Table(
    "worker_members",
    MetaData(),
    Column("worker", String(64), primary_key=True),
    Column("replica_id", String(256), primary_key=True),
    Column("heartbeat_ms", BigInteger, nullable=False),
    Column("partitions", Text, nullable=False),
    Column("n_records", BigInteger, nullable=False),
    Column("lag_records", BigInteger, nullable=False),
    Column("freshness_s", Float, nullable=False),
    Column("n_bad", BigInteger, nullable=False),
    Column("n_missed", BigInteger, nullable=False),
    Column("missed_ms", BigInteger, nullable=False),
    Column("n_repeated", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
)


def has_members(engine: Engine) -> bool:
    """Whether a worker ever wrote to this store."""
    file = sqlite_file(engine)
    if file is not None and not file.exists():
        return False
    with engine.connect() as connection:
        return inspect(connection).has_table(members.name)


def create_members(engine: Engine) -> None:
    """Make the table where it is missing; any number of processes may do so at once."""
    file = sqlite_file(engine)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"control store {file} cannot be made: {error.strerror}; "
                "check the setting data_dir and its permissions"
            ) from error
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            with engine.begin() as connection:
                connection.execute(CreateTable(members, if_not_exists=True))
        except DatabaseError:
            # The loser of a race gets an error at once, and finds the table when it comes back.
            if attempt == _OPEN_ATTEMPTS - 1:
                raise
        else:
            return
