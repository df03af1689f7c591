"""In which order imported histories leave the lake."""

from __future__ import annotations

from itertools import permutations

import duckdb
import pyarrow as pa
import pytest

from recsys.types import HistoryEvent
from train_app.checking.history_replay import ReceivedEvent, likely_orders
from train_app.following.features.load_history import imported_histories
from train_app.lake.lake_schema import ENGAGEMENTS

LIMIT = 3
# Item, time, row of the file, time of the import: one time and one row in two files, and at once.
ROWS = [("old", 1, 1, 10), ("a", 5, 7, 10), ("b", 5, 7, 20), ("c", 5, 7, 20), ("new", 5, 9, 10)]


def _lake_rows(rows: tuple[tuple[str, int, int, int], ...]) -> pa.Table:
    columns = {name: [None] * len(rows) for name in ENGAGEMENTS.names} | {
        "event_id": [f"id-{item}" for item, *_ in rows],
        "item_id": [item for item, *_ in rows],
        "timestamp_ms": [at_ms for _, at_ms, _, _ in rows],
        "sequence": [sequence for _, _, sequence, _ in rows],
        "received_at_ms": [received_ms for *_, received_ms in rows],
        "user_id": ["u"] * len(rows),
        "kind": ["view"] * len(rows),
        "origin": ["import"] * len(rows),
    }
    return pa.table(columns, schema=ENGAGEMENTS)


@pytest.mark.parametrize("limit", [2, LIMIT, 9])
def test_rows_of_one_time_and_place_have_one_order_however_the_lake_is_read(limit: int) -> None:
    """Two files may have one time in the same row; which of them a full history keeps is fixed."""
    expected = ["old", "a", "b", "c", "new"][-limit:]
    with duckdb.connect(config={"threads": 1}) as connection:
        for tied in permutations(ROWS[1:4]):
            connection.register("lake", _lake_rows((ROWS[4], *tied, ROWS[0])))
            ((user, events),) = imported_histories(connection, "lake", limit)
            assert (user, [event.item_id for event in events]) == ("u", expected)


@pytest.mark.parametrize("limit", [2, LIMIT, 9])
def test_the_check_offers_a_refilled_store_the_same_order(limit: int) -> None:
    """What the last import offers is what a store that begins anew is filled with."""
    imported = [
        ReceivedEvent(HistoryEvent(item, "view", at_ms), received_ms, True, sequence)
        for item, at_ms, sequence, received_ms in sorted(ROWS, key=lambda row: (row[3], row[1:3]))
    ]
    (order,) = likely_orders(imported, [], [limit], was_forgotten=False)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("lake", _lake_rows(tuple(reversed(ROWS))))
        ((_, events),) = imported_histories(connection, "lake", limit)
    assert order.imports[-1][1] == tuple(events)
