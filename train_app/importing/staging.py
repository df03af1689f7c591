"""Rows of one import on their way to the lake: checked, sorted, and told apart from known ones.

A DuckDB file in a scratch folder holds them, so that memory stays bounded whatever their number.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa

from recsys.errors import StoreError
from train_app.importing.raw_batch import BadRow
from train_app.lake.lake_schema import MAX_RAW_CHARS

MEMORY_LIMIT = "600MB"
"""DuckDB spills to disk above this; the process needs some hundred megabytes beside it."""
ROWS_PER_BATCH = 100_000
_PREFIX = "rows-"

_TABLES = """
    CREATE TABLE staged (event_id UUID, user_id VARCHAR, item_id VARCHAR, kind VARCHAR,
        timestamp_ms BIGINT, value DOUBLE, sequence BIGINT);
    CREATE TABLE rejected (source VARCHAR, line BIGINT, reason VARCHAR, raw VARCHAR)
"""


@dataclass
class NewRows:
    """Counts of a pass over the sorted rows; complete when the pass has ended."""

    n_new: int = 0
    n_duplicates: int = 0
    n_known: int = 0
    """Rows the lake had before."""


@dataclass
class StagedFacts:
    """What the staged rows hold together."""

    n_rows: int
    n_users: int
    n_items: int
    first_ms: int | None
    last_ms: int | None
    kinds: dict[str, int] = field(default_factory=dict)


class Staging:
    """The staged rows and the rejected ones; made by `open_staging`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        connection.execute(_TABLES)

    def add(self, checked: pa.Table) -> None:
        """Stage rows as `RowRules.check` answers them, all without a reason."""
        self._insert(
            "staged", checked, "event_id, user_id, item_id, kind, timestamp_ms, value, sequence"
        )

    def reject(self, source: str, rows: Sequence[BadRow]) -> None:
        """Set bad rows of one file aside; of each, only the beginning of its text is kept."""
        if rows:
            table = pa.table(
                {
                    "source": [source] * len(rows),
                    "line": [row.line for row in rows],
                    "reason": [row.reason for row in rows],
                    "raw": [row.raw[:MAX_RAW_CHARS] for row in rows],
                }
            )
            self._insert("rejected", table, "source, line, reason, raw")

    def facts(self) -> StagedFacts:
        """Counts over the staged rows."""
        query = self.connection.sql(
            "SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id),"
            " min(timestamp_ms), max(timestamp_ms) FROM staged"
        )
        kinds = self.connection.sql(
            "SELECT kind, count(*) FROM staged GROUP BY kind ORDER BY count(*) DESC, kind"
        )
        n_rows, n_users, n_items, first_ms, last_ms = query.fetchall()[0]
        return StagedFacts(n_rows, n_users, n_items, first_ms, last_ms, dict(kinds.fetchall()))

    def new_rows(self, known: str | None, counts: NewRows) -> Iterator[pa.Table]:
        """The rows the lake does not have, each once, in time order.

        Known rows are sorted in among the staged ones, so that equal ids are neighbours and no
        set of ids has to be held in memory.

        Args:
            known: view of the lake's engagements that covers the staged days.
            counts: filled while the rows are taken.
        """
        union = ""
        if known is not None:
            union = f"""UNION ALL BY NAME SELECT TRY_CAST(event_id AS UUID) AS event_id,
                timestamp_ms, false AS is_staged FROM {known} WHERE origin = 'import'"""
        query = f"""
            SELECT replace(event_id::VARCHAR, '-', '') AS event_id, user_id, item_id, kind,
                timestamp_ms, value, sequence, is_staged
            FROM (SELECT *, true AS is_staged FROM staged {union})
            ORDER BY timestamp_ms, event_id, is_staged, sequence"""
        reader = self.connection.sql(query).to_arrow_reader(ROWS_PER_BATCH)
        last_id, last_staged = "", True
        for batch in reader:
            if not batch.num_rows:
                continue
            staged = batch.column("is_staged").to_numpy(zero_copy_only=False)
            before = np.concatenate([[last_staged], staged[:-1]])
            repeats = _equals_previous(batch.column("event_id"), last_id)
            last_id, last_staged = batch.column("event_id")[-1].as_py(), bool(staged[-1])
            counts.n_known += int(np.count_nonzero(staged & repeats & ~before))
            counts.n_duplicates += int(np.count_nonzero(staged & repeats & before))
            fresh = staged & ~repeats
            counts.n_new += int(np.count_nonzero(fresh))
            yield pa.Table.from_batches([batch.filter(pa.array(fresh))])

    def _insert(self, name: str, rows: pa.Table, columns: str) -> None:
        self.connection.register("incoming", rows)
        try:
            self.connection.execute(f"INSERT INTO {name} SELECT {columns} FROM incoming")
        finally:
            self.connection.unregister("incoming")


@contextlib.contextmanager
def open_staging(scratch: Path) -> Generator[Staging]:
    """A staging whose files are removed in the end.

    Args:
        scratch: folder for the files; on the disk of the lake, since they take its size.

    Raises:
        StoreError: the scratch folder cannot be written, or is full.
    """
    try:
        with scratch_folder(scratch) as folder, open_database(folder) as connection:
            yield Staging(connection)
    except (OSError, duckdb.OperationalError, duckdb.FatalException) as error:
        raise StoreError(
            f"could not write scratch files in {scratch}: {error}; nothing was imported; free"
            " space and run it again"
        ) from error


@contextlib.contextmanager
def scratch_folder(scratch: Path) -> Generator[Path]:
    """A folder of this process that is removed in the end; those of dead processes are as well."""
    scratch.mkdir(parents=True, exist_ok=True)
    _remove_orphans(scratch)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            scratch.rmdir()


@contextlib.contextmanager
def open_database(folder: Path) -> Generator[duckdb.DuckDBPyConnection]:
    """DuckDB with bounded memory and UTC, its files in `folder`."""
    connection = duckdb.connect(str(folder / "rows.duckdb"))
    try:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'; SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute(f"SET temp_directory = '{_quoted(folder / 'spill')}'")
        yield connection
    finally:
        connection.close()


def _equals_previous(ids: pa.Array, last_id: str) -> np.ndarray:
    values = ids.to_numpy(zero_copy_only=False)
    previous = np.concatenate([np.array([last_id], dtype=object), values[:-1]])
    return np.asarray(values == previous, dtype=bool)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _remove_orphans(scratch: Path) -> None:
    for folder in scratch.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
