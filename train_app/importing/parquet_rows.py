"""Reads Parquet in row batches of bounded memory, every wanted column as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import DataError
from train_app.importing.raw_batch import LINE, RawBatch, TableFile

ROWS_PER_BATCH = 100_000


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file, its footer read.

    Raises:
        DataError: no Parquet, cut short, or not readable.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def parquet_columns(path: Path) -> tuple[str, ...]:
    """The names of the top-level columns."""
    with open_parquet(path) as file:
        return tuple(file.schema_arrow.names)


def read_parquet(file: TableFile, wanted: Mapping[str, str]) -> Iterator[RawBatch]:
    """The rows of a Parquet file; the line of a row is its 1-based number.

    Raises:
        DataError: the file is damaged, or a wanted column cannot be text.
    """
    row = 1
    with open_parquet(file.path) as opened:
        n_rows = max(1, opened.metadata.num_rows)
        batches = opened.iter_batches(ROWS_PER_BATCH, columns=sorted(set(wanted.values())))
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(file.path, error) from error
            if batch is None:
                return
            columns = {
                name: _as_text(batch.column(column), column, file.path)
                for name, column in wanted.items()
            }
            lines = np.arange(row, row + batch.num_rows)
            rows = pa.table({**columns, LINE: lines})
            row += batch.num_rows
            done = file.size_bytes * (row - 1) // n_rows
            yield RawBatch(rows, _row_text(rows, int(lines[0]) if len(lines) else 0), done)


def _row_text(rows: pa.Table, first_line: int) -> _RowText:
    return _RowText(rows.drop_columns([LINE]), first_line)


class _RowText:
    """Renders a row for the quarantine."""

    def __init__(self, rows: pa.Table, first_line: int) -> None:
        self._rows = rows
        self._first_line = first_line

    def __call__(self, line: int) -> str:
        row = self._rows.slice(line - self._first_line, 1).to_pylist()[0]
        return ", ".join(f"{name}={value}" for name, value in row.items())


def _as_text(column: pa.Array, name: str, path: Path) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_timestamp(kind):
        # Without a zone Arrow writes the UTC wall clock and no suffix, which is read as UTC.
        column = column.cast(pa.timestamp(kind.unit))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), "|")
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"column {name} of {path} is {kind}, expected text, a number, a time or a list of text"
        ) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is no whole Parquet file ({str(error).splitlines()[0]}); copy it again from its"
        " source"
    )
