"""Completes rows of an import with the columns every lake table has, and commits them once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES
from train_app.lake.lake_tables import Lake

IMPORT_MARK = "import"
"""Delta application id that counts imports, so that of two at once only one commits."""
MS_PER_DAY = 86_400_000


def log_mark(partition: int) -> str:
    """The Delta application id whose number is the offset a table is filled up to."""
    return f"log-{partition}"


def complete_rows(name: str, rows: pa.Table, day_column: str, **constants: object) -> pa.Table:
    """The rows with every column of table `name`: missing ones take a constant, or null.

    Args:
        day_column: the column of milliseconds that decides the day.
    """
    schema = TABLES[name]
    columns = []
    for column in schema:
        if column.name in rows.column_names:
            columns.append(rows[column.name].cast(column.type))
        elif column.name == PARTITION_COLUMN:
            columns.append(_days(rows, day_column, constants))
        else:
            value = pa.scalar(constants.get(column.name), column.type)
            columns.append(pa.repeat(value, rows.num_rows))
    return pa.table(columns, schema=schema)


def append_import(
    lake: Lake, name: str, tables: Iterable[pa.Table], mark: int | None, note: dict[str, object]
) -> int:
    """Append imported rows in one commit, and count the import; the number of rows.

    Args:
        mark: the import mark the rows were compared with.

    Raises:
        StoreError: another import committed since, or the lake cannot be written.
    """
    table = lake.open(name)
    with lake.append(table) as append:
        for rows in tables:
            append.write(rows)
        if append.n_rows:
            append.commit({IMPORT_MARK: (mark, (mark or 0) + 1)}, {"by": "import", **note})
        return append.n_rows


def _days(rows: pa.Table, day_column: str, constants: dict[str, object]) -> pa.Array:
    if day_column in rows.column_names:
        milliseconds = rows[day_column].to_numpy()
    else:
        milliseconds = np.full(rows.num_rows, constants[day_column], dtype=np.int64)
    return pa.array((milliseconds // MS_PER_DAY).astype(np.int32)).cast(pa.date32())
