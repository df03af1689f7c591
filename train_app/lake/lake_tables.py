"""The lake: Delta tables, read at one version and appended to by one atomic commit.

Its writers are `train_app.lake.archiving.archiver` (from the log),
`train_app.importing.import_history` (from files), `train_app.lake.upkeep.lake_forgetting` and
`train_app.lake.upkeep.compaction`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pa_dataset
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from recsys.events import new_event_id
from train_app.lake.lake_append import Append
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_files import files_of
from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES

_CONFIGURATION: dict[str, str | None] = {
    "delta.checkpointInterval": "100",
    # Old commits are deleted by `lake_retention` alone, which knows what bundles still name.
    "delta.enableExpiredLogCleanup": "false",
}


@dataclass(frozen=True)
class LakeTable:
    """One table at one version; what it holds does not change while it is read."""

    name: str
    delta: DeltaTable
    location: str

    @property
    def schema(self) -> pa.Schema:
        """The documented columns."""
        return TABLES[self.name]

    @property
    def version(self) -> int:
        """The Delta version."""
        return int(self.delta.version())

    def mark(self, app_id: str) -> int | None:
        """The number the last commit of `app_id` left: a log offset, or a count of imports."""
        found = self.delta.transaction_version(app_id)
        return None if found is None else int(found)

    def refresh(self) -> None:
        """Go to the newest version; for writers, which compare marks before they commit."""
        with lake_errors("read", self.location):
            self.delta.update_incremental()

    def files(self, first: date | None = None, last: date | None = None) -> list[str]:
        """Parquet files of the days `first..last`, both inclusive; all without them."""
        return [
            str(uri) for uri in self.delta.file_uris(file_pruning_predicate=_bounds(first, last))
        ]

    def attach(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: str,
        first: date | None = None,
        last: date | None = None,
    ) -> None:
        """Let DuckDB read the rows of the days `first..last` under the name `view`.

        The view has every documented column; rows written before a column was added read as null.
        """
        files = self.files(first, last)
        if not files:
            connection.register(view, self.schema.empty_table())
            return
        if "://" in self.location:
            connection.register(f"{view}_rows", self._dataset(files))
            source = f"{view}_rows"
        else:
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            source = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = true)"
        connection.register(f"{view}_columns", self.schema.empty_table())
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM {view}_columns"
            f" UNION ALL BY NAME SELECT * FROM {source}"
        )

    def _dataset(self, files: list[str]) -> Any:
        """The rows of some files, not by the dataset of Delta.

        That one takes a column whose nulls a commit does not count for one without nulls, and
        answers `IS NOT NULL` by it.
        """
        filesystem, _ = files_of(self.location)
        schema = pa.schema(self.delta.schema().to_arrow())
        days = pa_dataset.partitioning(pa.schema([schema.field(PARTITION_COLUMN)]), flavor="hive")
        return pa_dataset.dataset(
            [files_of(file)[1] for file in files],
            schema=schema,
            format="parquet",
            filesystem=filesystem,
            partitioning=days,
        )


class Lake:
    """All tables under one directory or URL; a table appears with its first commit.

    Args:
        location: directory, or URL of an object store that Delta Lake can open.
        new_id: names the data files.
    """

    def __init__(self, location: str, new_id: Callable[[], str] = new_event_id) -> None:
        self.location = location.rstrip("/")
        self._new_id = new_id

    def find(self, name: str, version: int | None = None) -> LakeTable | None:
        """The table at its newest version or the one asked for, None where nothing was written.

        Raises:
            StoreError: it exists and cannot be read, or has no such version any more.
        """
        location = f"{self.location}/{name}"
        if "://" not in location and not Path(location, "_delta_log").is_dir():
            return None
        with lake_errors("read", location):
            try:
                return LakeTable(name, DeltaTable(location, version=version), location)
            except TableNotFoundError:
                return None

    def open(self, name: str) -> LakeTable:
        """The table at its newest version, made empty where it is missing."""
        found = self.find(name)
        if found is not None:
            return found
        location = f"{self.location}/{name}"
        with lake_errors("make", location):
            if "://" not in location:
                Path(location).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                location,
                TABLES[name],
                mode="ignore",
                partition_by=PARTITION_COLUMN,
                name=name,
                configuration=_CONFIGURATION,
            )
            return LakeTable(name, DeltaTable(location), location)

    @contextlib.contextmanager
    def append(self, table: LakeTable) -> Generator[Append]:
        """An append that leaves no file behind unless it is committed inside the block."""
        with lake_errors("write", table.location):
            append = Append(table, *files_of(table.location), self._new_id)
            try:
                yield append
            finally:
                append.discard()


def _bounds(first: date | None, last: date | None) -> list[tuple[str, str, str]] | None:
    bounds = [(PARTITION_COLUMN, ">=", str(first))] if first else []
    bounds += [(PARTITION_COLUMN, "<=", str(last))] if last else []
    return bounds or None
