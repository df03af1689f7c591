"""One table of the lake while the archiver fills it, and how far into each partition it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from train_app.lake.event_columns import Rows
from train_app.lake.lake_errors import MarkMoved
from train_app.lake.lake_rows import log_mark
from train_app.lake.lake_schema import LOG_TABLES
from train_app.lake.lake_tables import Lake, LakeTable


class FilledTable:
    """A table and its marks as this writer last knew them; a moved mark ends a commit.

    Args:
        lake: the table is made there where it is missing.
    """

    def __init__(self, lake: Lake, name: str) -> None:
        self.name = name
        self.marks: dict[int, int | None] = {}
        """By partition: the next offset the table needs; None before its first commit."""
        self._lake = lake
        self._table = lake.open(name)

    @property
    def table(self) -> LakeTable:
        """The table at the version last seen."""
        return self._table

    def load(self, partitions: Iterable[int]) -> None:
        """Take the marks of these partitions, and of no others, from the lake."""
        self._table.refresh()
        self.marks = {partition: self._stored(partition) for partition in partitions}

    def check(self) -> None:
        """Go to the newest version and make sure that nobody has moved a mark.

        Raises:
            MarkMoved: somebody has; read from the marks again.
        """
        self._table.refresh()
        for partition, mark in self.marks.items():
            found = self._stored(partition)
            if found != mark:
                raise MarkMoved(
                    f"another writer filled lake table {self._table.location} up to {found} of"
                    f" partition {partition}, expected {mark}; read it again from there"
                )

    def lacking(self, rows: Rows) -> Rows:
        """The rows this table does not have yet."""
        if not len(rows):
            return rows
        partitions = np.array(rows.partitions)
        offsets = np.array(rows.offsets)
        needed = np.zeros(len(rows), dtype=np.bool_)
        for partition, mark in self.marks.items():
            needed |= (partitions == partition) & (offsets >= (mark or 0))
        return rows.where(needed)

    def behind(self, ends: Mapping[int, int]) -> dict[int, int]:
        """The partitions of `ends` whose mark is lower, or not there yet."""
        found = {}
        for partition, end in ends.items():
            mark = self.marks.get(partition)
            if mark is None or mark < end:
                found[partition] = end
        return found

    def commit(self, rows: pa.Table | None, ends: Mapping[int, int], writer: str) -> None:
        """Append rows, if any, and move the marks to `ends`, if any, in one commit.

        Raises:
            MarkMoved: another writer came first; nothing was written.
            StoreError: the table could not be written; nothing was.
        """
        moves = {partition: (self.marks.get(partition), end) for partition, end in ends.items()}
        offsets = {str(partition): [start or 0, end] for partition, (start, end) in moves.items()}
        with self._lake.append(self._table) as append:
            if rows is not None:
                append.write(rows)
            append.commit(
                {log_mark(partition): move for partition, move in moves.items()},
                {"by": writer, "offsets": offsets},
            )
        self._table.refresh()
        self.marks.update(ends)

    def _stored(self, partition: int) -> int | None:
        return self._table.mark(log_mark(partition))


def stored_positions(lake: Lake, partitions: Iterable[int]) -> dict[int, int]:
    """Up to which offset of each partition every table has been filled."""
    positions: dict[int, int] = {}
    tables = [lake.find(name) for name in LOG_TABLES]
    for partition in partitions:
        marks = [table.mark(log_mark(partition)) if table else None for table in tables]
        positions[partition] = min(mark or 0 for mark in marks)
    return positions
