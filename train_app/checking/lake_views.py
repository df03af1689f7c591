"""The lake's tables as views of a DuckDB with bounded memory, for checks that read them whole."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from recsys.errors import StoreError
from recsys.settings import Settings
from train_app.examples.join_database import open_joins
from train_app.importing.staging import scratch_folder
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake, LakeTable

CHECKED_TABLES = ("engagements", "impressions", "outcomes", "shadows", "catalogue")


@dataclass(frozen=True)
class LakeViews:
    """One view per checked table, by its name; a missing table is an empty view."""

    connection: duckdb.DuckDBPyConnection
    tables: Mapping[str, LakeTable | None]
    settings: Settings
    now_ms: int
    until_ms: int | None = None
    """Only what happened before this moment is in the views."""

    @property
    def as_of_ms(self) -> int:
        """The moment that ages are counted back from."""
        return self.now_ms if self.until_ms is None else min(self.now_ms, self.until_ms)

    def attach(self, name: str) -> None:
        """One more table as a view of its name, whole; an empty one where it is missing."""
        table = Lake(self.settings.lake_location).find(name)
        if table is None:
            self.connection.register(name, TABLES[name].empty_table())
        else:
            table.attach(self.connection, name)

    def row(self, query: str) -> dict[str, Any]:
        """The one row of a query, by column."""
        relation = self.connection.sql(query)
        return dict(zip(relation.columns, relation.fetchall()[0], strict=True))

    def rows(self, query: str) -> list[dict[str, Any]]:
        """All rows of a query, by column."""
        relation = self.connection.sql(query)
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


@contextlib.contextmanager
def open_lake_views(
    settings: Settings, now_ms: int, until_ms: int | None = None
) -> Generator[LakeViews]:
    """Views of the lake at its newest versions; what they spill is removed in the end.

    Raises:
        StoreError: the lake cannot be read, or there is no space to spill.
    """
    lake = Lake(settings.lake_location)
    scratch = settings.data_dir / "tmp"
    try:
        with (
            scratch_folder(scratch) as folder,
            open_joins(folder, settings.train) as connection,
        ):
            tables = {name: lake.find(name) for name in CHECKED_TABLES}
            for name, table in tables.items():
                _attach(connection, name, table, until_ms)
            yield LakeViews(connection, tables, settings, now_ms, until_ms)
    except (OSError, duckdb.Error) as problem:
        raise StoreError(
            f"could not read the lake {settings.lake_location}: {problem}; check that its files are"
            f" whole and that {scratch} has space"
        ) from problem


def _attach(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    table: LakeTable | None,
    until_ms: int | None,
) -> None:
    if table is None:
        connection.register(f"all_{name}", TABLES[name].empty_table())
    else:
        table.attach(connection, f"all_{name}")
    before = "" if until_ms is None else f" WHERE timestamp_ms < {int(until_ms)}"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM all_{name}{before}")
