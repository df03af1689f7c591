"""The lake: atomic appends, fenced writers, documented columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from recsys.errors import StoreError
from train_app.lake.lake_rows import append_import, complete_rows
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake

DAY_MS = 86_400_000


def some_rows(*times_ms: int) -> pa.Table:
    """Outcome rows at these times."""
    rows = pa.table(
        {
            "event_id": [f"e{time_ms}" for time_ms in times_ms],
            "timestamp_ms": list(times_ms),
            "sequence": list(range(len(times_ms))),
        }
    )
    return complete_rows("outcomes", rows, "timestamp_ms", user_id="u", status=503)


def test_every_column_of_every_table_says_what_it_holds() -> None:
    """The documented columns are the contract with other tools."""
    for schema in TABLES.values():
        assert {"event_id", "log_partition", "log_offset", "event_date"} <= set(schema.names)
        assert all(column.metadata[b"comment"] for column in schema)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    """A table whose log cannot be read is an error, not an empty table."""
    append_import(Lake(str(tmp_path)), "outcomes", [some_rows(1)], None, {})
    for commit in (tmp_path / "outcomes" / "_delta_log").glob("*.json"):
        commit.write_text("{broken")
    with pytest.raises(StoreError, match="outcomes"):
        Lake(str(tmp_path)).find("outcomes")
