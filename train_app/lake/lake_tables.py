"""The lake: Delta tables, read at one version and appended to by one atomic commit.

Its writers are `train_app.lake.ingest` (from the log) and `train_app.importing.import_history`
(from files). Knows tables, files and commits; not what rows mean.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from recsys.errors import StoreError
from recsys.events import new_event_id
from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES

MAX_ROWS_PER_FILE = 4_000_000
_EPOCH = date(1970, 1, 1)
_STATISTICS = ("timestamp_ms", "log_offset")


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
        """Let DuckDB read the rows of the days `first..last` under the name `view`."""
        files = self.files(first, last)
        if not files:
            connection.register(view, self.schema.empty_table())
        elif "://" in self.location:
            dataset = self.delta.to_pyarrow_dataset(file_pruning_predicate=_bounds(first, last))
            connection.register(view, dataset)
        else:
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            connection.execute(
                f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM"
                f" read_parquet([{listed}], union_by_name = true, hive_partitioning = true)"
            )


class Lake:
    """All tables under one directory or URL; a table appears with its first commit.

    Args:
        location: directory, or URL of an object store that Delta Lake and Arrow can both open.
        new_id: names the data files.
    """

    def __init__(self, location: str, new_id: Callable[[], str] = new_event_id) -> None:
        self.location = location.rstrip("/")
        self._new_id = new_id

    def find(self, name: str) -> LakeTable | None:
        """The table at its newest version, None where nothing was ever written.

        Raises:
            StoreError: it exists and cannot be read.
        """
        location = f"{self.location}/{name}"
        if "://" not in location and not Path(location, "_delta_log").is_dir():
            return None
        with lake_errors("read", location):
            try:
                return LakeTable(name, DeltaTable(location), location)
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
                location, TABLES[name], mode="ignore", partition_by=PARTITION_COLUMN, name=name
            )
            return LakeTable(name, DeltaTable(location), location)

    @contextlib.contextmanager
    def append(self, table: LakeTable) -> Generator[Append]:
        """An append that leaves no file behind unless it is committed inside the block."""
        with lake_errors("write", table.location):
            if "://" in table.location:
                filesystem, root = pa_fs.FileSystem.from_uri(table.location)
            else:
                filesystem, root = pa_fs.LocalFileSystem(), table.location
            append = Append(table, filesystem, root, self._new_id)
            try:
                yield append
            finally:
                append.discard()


@dataclass
class Append:
    """Rows on their way into one table: files first, then one commit that shows them all."""

    table: LakeTable
    filesystem: Any
    root: str
    new_id: Callable[[], str]
    n_rows: int = 0
    _actions: list[AddAction | RemoveAction] = field(default_factory=list)
    _open: _DayFile | None = None
    _committed: bool = False

    def write(self, rows: pa.Table) -> None:
        """Add rows, which have every column; sorted by day over all calls makes fewest files."""
        if not rows.num_rows:
            return
        days = rows[PARTITION_COLUMN].cast(pa.int32()).to_numpy()
        cuts = np.flatnonzero(np.diff(days)) + 1
        starts = [0, *cuts.tolist()]
        for start, stop in zip(starts, [*cuts.tolist(), len(days)], strict=True):
            self._write_day(int(days[start]), rows.slice(start, stop - start))
        self.n_rows += rows.num_rows

    def commit(self, marks: Mapping[str, tuple[int | None, int]], note: dict[str, object]) -> None:
        """Show all rows at once and move each mark from its expected value to its next.

        The commit goes through the same table object the marks are compared on, so of two
        writers that start from the same mark only one succeeds.

        Raises:
            StoreError: another writer moved a mark first; nothing was written.
        """
        for app_id, (expected, _) in marks.items():
            if self.table.mark(app_id) != expected:
                raise StoreError(_conflict(self.table.location, app_id))
        self._close_day()
        properties = CommitProperties(
            custom_metadata={"flywheel": json.dumps(note)},
            app_transactions=[Transaction(app_id, end) for app_id, (_, end) in marks.items()],
        )
        try:
            self.table.delta.create_write_transaction(
                self._actions,
                "append",
                self.table.schema,
                [PARTITION_COLUMN],
                commit_properties=properties,
            )
        except CommitFailedError as error:
            if "oncurrent transaction" not in str(error):
                raise
            raise StoreError(_conflict(self.table.location, ", ".join(marks))) from error
        self._committed = True

    def discard(self) -> None:
        """Delete the files of an append that was not committed."""
        if self._open is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._open.writer.close()
            self._remove(self._open.path)
            self._open = None
        if not self._committed:
            for action in self._actions:
                self._remove(action.path)
            self._actions = []

    def _write_day(self, day: int, rows: pa.Table) -> None:
        if self._open is not None and (
            self._open.day != day or self._open.n_rows >= MAX_ROWS_PER_FILE
        ):
            self._close_day()
        if self._open is None:
            folder = f"{PARTITION_COLUMN}={_EPOCH + timedelta(days=day)}"
            path = f"{folder}/part-{self.new_id()}.parquet"
            self.filesystem.create_dir(f"{self.root}/{folder}", recursive=True)
            schema = pa.schema([f for f in self.table.schema if f.name != PARTITION_COLUMN])
            writer = pq.ParquetWriter(
                f"{self.root}/{path}", schema, filesystem=self.filesystem, compression="zstd"
            )
            self._open = _DayFile(day, path, schema, writer)
        self._open.add(rows)

    def _close_day(self) -> None:
        if self._open is None:
            return
        done = self._open
        done.writer.close()
        size = self.filesystem.get_file_info(f"{self.root}/{done.path}").size
        day = {PARTITION_COLUMN: str(_EPOCH + timedelta(days=done.day))}
        statistics = json.dumps(done.statistics())
        now_ms = int(time.time() * 1000)
        self._actions.append(AddAction(done.path, size, day, now_ms, True, statistics))
        self._open = None

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self.filesystem.delete_file(f"{self.root}/{path}")


@dataclass
class _DayFile:
    """The Parquet file being written, all of one day."""

    day: int
    path: str
    schema: pa.Schema
    writer: pq.ParquetWriter
    n_rows: int = 0
    lows: dict[str, int] = field(default_factory=dict)
    highs: dict[str, int] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        self.writer.write_table(rows.select(self.schema.names).cast(self.schema))
        self.n_rows += rows.num_rows
        for name in _STATISTICS:
            if name in self.schema.names:
                bounds = pc.min_max(rows[name]).as_py()
                if bounds["min"] is not None:
                    self.lows[name] = min(bounds["min"], self.lows.get(name, bounds["min"]))
                    self.highs[name] = max(bounds["max"], self.highs.get(name, bounds["max"]))

    def statistics(self) -> dict[str, object]:
        return {"numRecords": self.n_rows, "minValues": self.lows, "maxValues": self.highs}


@contextlib.contextmanager
def lake_errors(verb: str, location: str) -> Generator[None]:
    """Report what goes wrong with disk, Arrow or Delta as one StoreError that names the place."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as error:
        mend = "free space" if _is_full(error) else "look at the message, then run it again"
        raise StoreError(
            f"could not {verb} lake table {location}: {error}; nothing of it was committed; {mend}"
        ) from error


def _bounds(first: date | None, last: date | None) -> list[tuple[str, str, str]] | None:
    bounds = [(PARTITION_COLUMN, ">=", str(first))] if first else []
    bounds += [(PARTITION_COLUMN, "<=", str(last))] if last else []
    return bounds or None


def _is_full(error: BaseException) -> bool:
    return "space left" in str(error) or "quota" in str(error).lower()


def _conflict(location: str, app_id: str) -> str:
    return (
        f"another writer committed to lake table {location} first ({app_id}); nothing was written,"
        " run it again once the other has ended"
    )
