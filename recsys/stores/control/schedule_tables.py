"""The table of the training schedule, kept in the control store, for SQLite and Postgres.

One row, whose one writer is the scheduler, through `training_schedule.TrainingSchedule`.
"""

from __future__ import annotations

from sqlalchemy import Column, Engine, Integer, MetaData, Table, Text
from sqlalchemy.schema import CreateTable

from recsys.stores.control.control_tables import is_written, make_together

schedule = Table(
    "training_schedule",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("document", Text, nullable=False),
)


def has_schedule(engine: Engine) -> bool:
    """Whether a scheduler ever wrote to this store."""
    return is_written(engine, schedule)


def create_schedule(engine: Engine) -> None:
    """Make the table where it is missing; any number of processes may do so at once."""
    make_together(engine, "control store", _create)


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CreateTable(schedule, if_not_exists=True))
