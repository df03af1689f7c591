"""The table of acknowledged gaps, kept in the control store, for SQLite and Postgres.

Its one writer is `train_app.lake.archiving.gap_verdict`, through
`acknowledged_gaps.AcknowledgedGaps`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, Table, Text
from sqlalchemy.schema import CreateTable

from recsys.stores.control.control_tables import is_written, make_together

gaps = Table(
    "acknowledged_gaps",
    MetaData(),
    Column("partition", Integer, primary_key=True),
    Column("first_offset", BigInteger, primary_key=True),
    Column("end_offset", BigInteger, primary_key=True),
    Column("acknowledged_ms", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
)


def has_gaps(engine: Engine) -> bool:
    """Whether anybody ever acknowledged a gap in this store."""
    return is_written(engine, gaps)


def create_gaps(engine: Engine) -> None:
    """Make the table where it is missing; any number of processes may do so at once."""
    make_together(engine, "control store", _create)


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CreateTable(gaps, if_not_exists=True))
