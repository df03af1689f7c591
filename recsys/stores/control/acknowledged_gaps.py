"""Which gaps of the lake an operator has looked at: who, when and why.

The only writer is `train_app.lake.archiving.gap_verdict`; the gaps themselves stand in the lake's
`skipped`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AcknowledgedGap:
    """Offsets of one partition that are lost, and that somebody knows of."""

    partition: int
    first_offset: int
    end_offset: int
    """Exclusive."""
    acknowledged_ms: int
    who: str
    reason: str


class AcknowledgedGaps:
    """The rows of acknowledged gaps.

    Args:
        url: SQLAlchemy URL of the control store.
    """

    def __init__(self, url: str) -> None:
        from recsys.stores.control import control_tables, gap_table

        self._tables = gap_table
        self._writer = control_tables.open_engine(url, writes=True)
        self._reader = control_tables.open_engine(url, writes=False)

    def read(self) -> list[AcknowledgedGap]:
        """All of them, by partition and offset.

        Raises:
            StoreError: the store is away.
        """
        rows = self._tables.gaps
        query = rows.select().order_by(rows.c.partition, rows.c.first_offset)

        def find() -> list[AcknowledgedGap]:
            if not self._tables.has_gaps(self._reader):
                return []
            with self._reader.begin() as connection:
                return [AcknowledgedGap(**row) for row in connection.execute(query).mappings()]

        return self._reaching(find)

    def add(self, gaps: Iterable[AcknowledgedGap]) -> None:
        """Keep all of them, or none.

        Raises:
            StoreError: the store is away, or one of them is there already.
        """
        values = [asdict(gap) for gap in gaps]

        def insert() -> None:
            self._tables.create_gaps(self._writer)
            with self._writer.begin() as connection:
                connection.execute(self._tables.gaps.insert(), values)

        if values:
            self._reaching(insert)

    def close(self) -> None:
        """Give the connections back."""
        self._writer.dispose()
        self._reader.dispose()

    def _reaching(self, run: Callable[[], T]) -> T:
        from recsys.stores.control.control_tables import reaching

        return reaching(self._writer.url, run)
