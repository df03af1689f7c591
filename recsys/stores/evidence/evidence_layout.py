"""Makes the tables of the evidence store, and brings those of an earlier release up to date.

Part of its one writer, `train_app.following.evidence.stream_evidence`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from sqlalchemy import Connection, Engine, inspect, select, text, update
from sqlalchemy.schema import CreateIndex, CreateTable

from recsys.errors import StoreError
from recsys.stores.control.control_tables import make_together
from recsys.stores.evidence import evidence_tables as tables
from recsys.stores.evidence.evidence_before import FIRST, lacking


def create_evidence(engine: Engine) -> None:
    """Make what is missing, the salt too; any number of processes may do so at once."""
    make_together(engine, "evidence store", _create)


def _create(engine: Engine, new_salt: Callable[[int], str] = secrets.token_hex) -> None:
    with engine.begin() as connection:
        _bring_up_to_date(connection)
        for table in tables.ALL:
            connection.execute(CreateTable(table, if_not_exists=True))
        for index in tables.INDEXES:
            connection.execute(CreateIndex(index, if_not_exists=True))
        connection.execute(
            tables.upsert(engine, tables.meta).on_conflict_do_nothing(),
            [
                {"name": "layout", "value": tables.LAYOUT_VERSION},
                {"name": "salt", "value": new_salt(32)},
            ],
        )
        layout = select(tables.meta.c.value).where(tables.meta.c.name == "layout")
        found = connection.execute(layout).scalar()
    if found != tables.LAYOUT_VERSION:
        raise StoreError(
            f"evidence store {engine.url} has layout version {found}, this program writes"
            f" {tables.LAYOUT_VERSION}; use the release that wrote it, or name another"
            " evidence_store_url"
        )


def _bring_up_to_date(connection: Connection) -> None:
    """Give a store of an earlier layout what it lacks: no experiment, and sums of 0."""
    if not inspect(connection).has_table(tables.meta.name):
        return
    if not lacking(tables.read_layout(connection)):
        return
    at_layout = tables.meta.c.name == "layout"
    # Whoever else opens the store waits here, and then finds it done.
    connection.execute(update(tables.meta).where(at_layout).values(value=tables.meta.c.value))
    layout = tables.read_layout(connection)
    if not lacking(layout):
        return
    if layout == FIRST:
        _give_experiments(connection)
    for table in (tables.hours, tables.users):
        for name in tables.TRAIT_MEASURES:
            connection.execute(
                text(f"ALTER TABLE {table.name} ADD COLUMN {name} BIGINT NOT NULL DEFAULT 0")
            )
    connection.execute(update(tables.meta).where(at_layout).values(value=tables.LAYOUT_VERSION))


def _give_experiments(connection: Connection) -> None:
    """An experiment is part of the key, so its tables are made anew."""
    for table in (tables.outcomes, tables.latencies):
        old = f"{table.name}_layout_1"
        connection.execute(text(f"ALTER TABLE {table.name} RENAME TO {old}"))
        connection.execute(CreateTable(table))
        names = [f'"{column.name}"' for column in table.columns]
        taken = ["''" if name == '"experiment"' else name for name in names]
        connection.execute(
            text(
                f"INSERT INTO {table.name} ({', '.join(names)})"
                f" SELECT {', '.join(taken)} FROM {old}"
            )
        )
        connection.execute(text(f"DROP TABLE {old}"))
