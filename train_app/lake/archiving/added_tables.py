"""Where a log table begins that the lake has not had so far: after an upgrade, or moved away.

Offsets tell the two apart: what an earlier release archived is in its tables whole, and what was
in a table that was moved away is in none.
"""

from __future__ import annotations

from collections.abc import Mapping

from train_app.lake.archiving.filled_table import FilledTable
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_schema import LATER_TABLES
from train_app.lake.upkeep.bounded_reading import bounded_connection
from train_app.lake.upkeep.offset_check import first_missing


def begin_added_tables(tables: Mapping[str, FilledTable], partition: int, writer: str) -> None:
    """Give the tables that are committed first, and lack a mark where others have one, theirs.

    Without it they would have the whole log read again, and what it no longer has noted as lost.

    Args:
        tables: all log tables by name, with their marks.
        writer: goes into the commit.
    """
    marks = [table.marks[partition] for n, table in tables.items() if n not in LATER_TABLES]
    if all(mark is None for mark in marks):
        return  # the first turn of this partition, or one that died before it came to the others
    end = min(mark or 0 for mark in marks)
    has_notes = tables["skipped"].marks[partition] is not None
    for name in LATER_TABLES:
        if tables[name].marks[partition] is None:
            # Without notes nobody can tell which offsets should be somewhere.
            begin = _first_missing(tables, partition, end) if has_notes else end
            tables[name].commit(None, {partition: begin}, writer)


def _first_missing(tables: Mapping[str, FilledTable], partition: int, end: int) -> int:
    with lake_errors("read", tables["skipped"].table.location), bounded_connection() as connection:
        for name, filled in tables.items():
            filled.table.attach(connection, name)
        return first_missing(connection, partition, list(tables), end)
