"""Staged engagements and impressions in a DuckDB in memory, for tests of how they are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from train_app.examples.example_rules import ExampleRules
from train_app.lake.lake_schema import IMPRESSIONS

FAR_MS = 10**15

_ENGAGEMENTS = pa.schema(
    [
        ("event_id", pa.string()), ("user_id", pa.string()), ("item_id", pa.string()),
        ("kind", pa.string()), ("event_ms", pa.int64()), ("received_ms", pa.int64()),
        ("value", pa.float64()), ("request_id", pa.string()), ("is_imported", pa.bool_()),
        ("sequence", pa.int64()), ("is_negative", pa.bool_()), ("is_late", pa.bool_()),
    ]
)  # fmt: skip
_IMPRESSIONS = pa.schema(
    [
        pa.field("moment_id", pa.string()),
        *(IMPRESSIONS.field(name) for name in ("request_id", "user_id", "timestamp_ms")),
        *(IMPRESSIONS.field(name) for name in ("bundle_id", "variant", "slate", "unshown")),
        *(IMPRESSIONS.field(name) for name in ("dropped", "n_dropped")),
        *(IMPRESSIONS.field(name) for name in ("history_version", "history_items", "context")),
        pa.field("is_scored", pa.bool_()),
    ]
)


def some_rules(**changes: Any) -> ExampleRules:
    """Rules with a label window of 100 ms and nothing cut off."""
    values: dict[str, Any] = {
        "until_ms": FAR_MS, "closed_live_ms": FAR_MS, "closed_import_ms": FAR_MS,
        "label_window_ms": 100, "lateness_ms": 1000, "history_limit": 200, "history_length": 20,
        "negative_kinds": ("dismiss",), "n_random": 4, "with_organic": True, "seed": 0,
    }  # fmt: skip
    return ExampleRules(**{**values, **changes})


def an_act(user: str, item: str, at_ms: int, kind: str = "click", **fields: Any) -> dict[str, Any]:
    """A staged engagement, received when it happened."""
    row: dict[str, Any] = {
        "event_id": f"{user}-{item}-{kind}-{at_ms}", "user_id": user, "item_id": item,
        "kind": kind, "event_ms": at_ms, "received_ms": at_ms, "is_imported": False,
        "sequence": at_ms, "is_negative": kind == "dismiss", "is_late": False,
    }  # fmt: skip
    return row | fields


def a_slate(
    user: str, items: Sequence[str], at_ms: int, unshown: Sequence[str] = (), **fields: Any
) -> dict[str, Any]:
    """A staged impression; its request is `r<time>` and its id `m<time>`."""
    row: dict[str, Any] = {
        "moment_id": f"m{at_ms}", "request_id": f"r{at_ms}", "user_id": user,
        "timestamp_ms": at_ms, "bundle_id": "b", "variant": "stable", "history_items": [],
        "is_scored": True,
        "slate": [{"item_id": item, "position": n, "score": 0.5} for n, item in enumerate(items)],
        "unshown": [{"item_id": item, "score_rank": n, "score": 0.2}
                    for n, item in enumerate(unshown)],
    }  # fmt: skip
    return row | fields


def stage(
    connection: duckdb.DuckDBPyConnection,
    acts: Sequence[dict[str, Any]] = (),
    slates: Sequence[dict[str, Any]] = (),
) -> None:
    """Tables `engagements` and `impressions` of these rows."""
    for name, rows, schema in (
        ("engagements", acts, _ENGAGEMENTS),
        ("impressions", slates, _IMPRESSIONS),
    ):
        connection.register("incoming", pa.Table.from_pylist(list(rows), schema))
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM incoming")
        connection.unregister("incoming")
