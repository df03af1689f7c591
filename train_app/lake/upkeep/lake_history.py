"""What was done to the lake's tables: version, time, rows, and by whom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from train_app.lake.lake_append import NOTE_KEY
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake


@dataclass(frozen=True, slots=True)
class Change:
    """One version of one table."""

    table: str
    version: int
    at: str
    """ISO 8601, UTC."""
    operation: str
    n_rows: int | None
    """Rows added, or below zero deleted; None where it is not said."""
    by: str
    offsets: dict[str, list[int]]
    """By partition of the log, from which offset to which the commit filled the table."""


def read_history(lake: Lake, table: str | None = None, limit: int = 20) -> list[Change]:
    """The newest changes of a table, or of all, newest first.

    Raises:
        StoreError: a table's log cannot be read.
    """
    found: list[Change] = []
    for name in TABLES if table is None else (table,):
        opened = lake.find(name)
        if opened is not None:
            with lake_errors("read", opened.location):
                found += [_change(name, entry) for entry in opened.delta.history(limit)]
    found.sort(key=lambda change: (change.at, change.version), reverse=True)
    return found[:limit]


def _change(table: str, entry: dict[str, Any]) -> Change:
    note = _note(entry)
    at = datetime.fromtimestamp(entry.get("timestamp", 0) / 1000, UTC)
    return Change(
        table=table,
        version=int(entry.get("version", -1)),
        at=at.isoformat(timespec="milliseconds"),
        operation=str(entry.get("operation", "")).lower(),
        n_rows=_rows(entry, note),
        by=str(note.get("by", "")),
        offsets=note.get("offsets", {}),
    )


def _rows(entry: dict[str, Any], note: dict[str, Any]) -> int | None:
    if "rows" in note:
        return int(note["rows"])
    metrics = entry.get("operationMetrics")
    deleted = metrics.get("num_deleted_rows") if isinstance(metrics, dict) else None
    return -int(deleted) if deleted is not None else None


def _note(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        note = json.loads(entry.get(NOTE_KEY, "{}"))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
