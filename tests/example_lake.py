"""Builds small lakes of impressions and engagements for tests of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.settings import Settings
from train_app.lake.lake_rows import complete_rows
from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES
from train_app.lake.lake_tables import Lake

NOON = 1_767_268_800_000
"""2026-01-01T12:00:00Z in ms."""
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


def an_engagement(
    user: str, item: str, at_ms: int, kind: str = "click", **fields: Any
) -> dict[str, Any]:
    """A row of `engagements`; received when it happened unless told otherwise."""
    row: dict[str, Any] = {
        "event_id": f"e-{user}-{item}-{kind}-{at_ms}",
        "kind": kind,
        "user_id": user,
        "item_id": item,
        "timestamp_ms": at_ms,
        "received_at_ms": at_ms,
        "origin": "api",
        "sequence": at_ms,
        "log_partition": 0,
        "log_offset": at_ms,
    }
    return row | fields


def an_imported(user: str, item: str, at_ms: int, kind: str = "view") -> dict[str, Any]:
    """A row of `engagements` of imported history, brought in at `NOON`."""
    return an_engagement(
        user, item, at_ms, kind,
        received_at_ms=NOON, origin="import", log_partition=None, log_offset=None,
    )  # fmt: skip


def an_impression(
    user: str,
    items: Sequence[str],
    at_ms: int,
    unshown: Sequence[str] = (),
    dropped: Sequence[str] = (),
    **fields: Any,
) -> dict[str, Any]:
    """A row of `impressions` that shows `items` in order; its request is `r-<user>-<time>`."""
    candidate = {"source": "index", "retrieval_score": 0.5, "retrieval_rank": 3}
    slate = [
        {**candidate, "item_id": item, "score": 1.0 - place / 10, "position": place,
         "propensity": 0.9}
        for place, item in enumerate(items)
    ]  # fmt: skip
    left = [
        {**candidate, "item_id": item, "score": 0.1, "score_rank": len(items) + place}
        for place, item in enumerate(unshown)
    ]
    row: dict[str, Any] = {
        "event_id": f"i-{user}-{at_ms}",
        "request_id": f"r-{user}-{at_ms}",
        "user_id": user,
        "timestamp_ms": at_ms,
        "bundle_id": "b1",
        "variant": "stable",
        "slate": slate,
        "unshown": left,
        "dropped": [
            {**candidate, "item_id": item, "retrieval_rank": 200 + place}
            for place, item in enumerate(dropped)
        ],
        "n_dropped": 10 * len(dropped),
        "history_version": 7,
        "history_items": [],
        "context": [("device", "phone")],
        "coverage": 1.0,
        "degraded": [],
        "stage_ms": [],
        "sequence": at_ms,
        "log_partition": 0,
        "log_offset": at_ms,
    }
    return row | fields


def an_entry(item: str, at_ms: int, *, deleted: bool = False, **fields: Any) -> dict[str, Any]:
    """A row of `catalogue`."""
    row: dict[str, Any] = {
        "event_id": f"c-{item}-{at_ms}", "item_id": item, "timestamp_ms": at_ms,
        "deleted": deleted, "title": item, "categories": [], "creator": "", "sequence": at_ms,
    }  # fmt: skip
    return row | fields


def a_lake(data_dir: Path, **tables: Sequence[dict[str, Any]]) -> Settings:
    """Settings whose lake has these rows, by table, one commit each."""
    settings = Settings(data_dir=data_dir)
    lake = Lake(settings.lake_location)
    for name, rows in tables.items():
        if rows:
            schema = pa.schema([f for f in TABLES[name] if f.name != PARTITION_COLUMN])
            whole = complete_rows(name, pa.Table.from_pylist(list(rows), schema), "timestamp_ms")
            with lake.append(lake.open(name)) as append:
                append.write(whole.sort_by(PARTITION_COLUMN))
                append.commit({}, {"test": name})
    return settings
