"""The lake's tables that features are made of, each at one version."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import duckdb

from train_app.lake.lake_rows import log_mark
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake, LakeTable


@dataclass(frozen=True, slots=True)
class LakeTables:
    """The tables that features are made of, each at one version."""

    engagements: LakeTable
    catalogue: LakeTable | None

    def ends(self, partitions: Collection[int]) -> dict[int, int]:
        """Up to which offset both tables hold each partition, of those they hold anything of."""
        if self.catalogue is None:
            return {}
        both = (self.engagements, self.catalogue)
        ends = {p: min(table.mark(log_mark(p)) or 0 for table in both) for p in partitions}
        return {partition: end for partition, end in ends.items() if end}

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let DuckDB read them as `lake_engagements` and `lake_catalogue`."""
        self.engagements.attach(connection, "lake_engagements")
        if self.catalogue is None:
            connection.register("lake_catalogue", TABLES["catalogue"].empty_table())
        else:
            self.catalogue.attach(connection, "lake_catalogue")


def find_tables(location: str) -> LakeTables | None:
    """The lake's tables as they are now; None where it has none yet."""
    lake = Lake(location)
    engagements = lake.find("engagements")
    return None if engagements is None else LakeTables(engagements, lake.find("catalogue"))
