"""The table of worker replicas, kept in the control store, for SQLite and Postgres.

A row has one writer, the replica it names, through `membership.Membership`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Engine, Float, MetaData, String, Table, Text
from sqlalchemy.schema import CreateTable

from recsys.stores.control.control_tables import is_written, make_together

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
    return is_written(engine, members)


def create_members(engine: Engine) -> None:
    """Make the table where it is missing; any number of processes may do so at once."""
    make_together(engine, "control store", _create)


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CreateTable(members, if_not_exists=True))
