"""What operators decided, as rows that outlive a database: read at one moment, written to none.

Rows that say who lives right now (readiness, followers, leases) are left out: whoever lives says it
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from recsys.errors import ConfigError, DataError
from recsys.stores.control.control_tables import create_tables, is_written, open_engine, reaching

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

TRANSIENT = frozenset({
    "control_readiness", "control_leases", "worker_members", "bundle_leases",
})  # fmt: skip
"""Tables whose rows are written anew within seconds, or hold nothing after a restart."""


def kept_tables() -> list[Table]:
    """The tables of the control store that a copy holds, whoever writes them."""
    from cluster.bundles.pins import pin_table
    from recsys.stores.control import control_schema, gap_table, key_tables, schedule_tables

    tables = [
        *control_schema.metadata.sorted_tables,
        gap_table.gaps,
        schedule_tables.schedule,
        key_tables.api_keys,
        pin_table,
    ]
    return [table for table in tables if table.name not in TRANSIENT]


def read_rows(url: str) -> list[str]:
    """Every kept row as a line of JSON, of one moment; none of a store that was never written.

    Raises:
        StoreError: the store is away.
    """
    engine = open_engine(url, writes=False)

    def read() -> list[str]:
        there = [table for table in kept_tables() if is_written(engine, table)]
        if not there:
            return []
        with engine.begin() as connection:
            return [
                json.dumps({"table": table.name, "row": dict(row)}, sort_keys=True)
                for table in there
                for row in connection.execute(table.select()).mappings()
            ]

    try:
        return reaching(engine.url, read)
    finally:
        engine.dispose()


def write_rows(url: str, lines: Iterable[str]) -> int:
    """Put rows into a store that has none, all or nothing; how many.

    Raises:
        ConfigError: the store directs traffic already.
        DataError: a line is none of `read_rows`.
        StoreError: the store is away; nothing was written.
    """
    rows = list(_parsed(lines))
    if not rows:
        return 0
    engine = open_engine(url, writes=True)

    def write() -> int:
        _refuse_used(engine)
        create_tables(engine)
        tables = kept_tables()
        for table in tables:
            table.create(engine, checkfirst=True)
        by_name = {table.name: table for table in tables}
        with engine.begin() as connection:
            if any(name == "control_head" for name, _ in rows):
                # It is made with the tables as well.
                connection.execute(by_name["control_head"].delete())
            for name, row in rows:
                connection.execute(by_name[name].insert().values(**row))
            _set_sequence(connection, by_name["control_history"])
        return len(rows)

    try:
        return reaching(engine.url, write)
    finally:
        engine.dispose()


def _refuse_used(engine: Engine) -> None:
    from recsys.stores.control.control_schema import head

    if not is_written(engine, head):
        return
    with engine.begin() as connection:
        revision = int(connection.execute(head.select()).mappings().one()["revision"])
    if revision:
        raise ConfigError(
            f"control store {engine.url} is at revision {revision}, expected an empty one to "
            "restore into; name another database"
        )


def _set_sequence(connection: Any, history: Table) -> None:
    """Let the next line of history come after those that were put with their numbers."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"SELECT setval(pg_get_serial_sequence('{history.name}', 'sequence'),"
            f" (SELECT coalesce(max(sequence), 0) + 1 FROM {history.name}), false)"
        )


def _parsed(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    names = {table.name for table in kept_tables()}
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            name, row = str(found["table"]), dict(found["row"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"line {number} of the copy of the control store cannot be read ({error!r}); "
                "take an earlier backup"
            ) from error
        if name not in names:
            raise DataError(
                f"line {number} of the copy is of table '{name}', which this release does not "
                "know; restore with the release that made the backup"
            )
        yield name, row
