"""Every planted leak is caught, by the name of the column it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from recsys.errors import DataRefused
from tests.example_tables import an_act, stage
from train_app.examples.as_of_features import create_item_timeline, create_visible
from train_app.examples.as_of_join import as_of_join
from train_app.examples.example_schema import AS_OF_FEATURES, EXAMPLES
from train_app.examples.leak_guard import TimedFeature, auc_of, find_leaks, refuse_leaks

CUTOFF = 100_000
WINDOW = 1_000


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    with duckdb.connect(config={"threads": 2}) as opened:
        yield opened


def an_example(n: int, at_ms: int, labels: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """An honest example of user `u<n>` and item `i<n>`, shown at a moment."""
    row: dict[str, Any] = {
        "example_id": f"x{n}", "moment_id": f"m{n}", "request_id": f"r{n}", "user_id": f"u{n}",
        "item_id": f"i{n}", "timestamp_ms": at_ms, "is_imported": False, "stage": "shown",
        "labels": labels, "label_end_ms": at_ms + WINDOW, "history_items": [f"h{n}"],
        "history_is_logged": True, "known_ms": at_ms - 5, "user_known_ms": at_ms - 5,
        "user_event_ms": at_ms - 6, "item_known_ms": None, "item_event_ms": None,
    }  # fmt: skip
    for n_column, name in enumerate(name for group in AS_OF_FEATURES.values() for name in group):
        row[name] = (n * (n_column + 3)) % 7
    return row | fields


def a_label(after_ms: int) -> list[dict[str, Any]]:
    """One click so long after the moment."""
    return [{"kind": "click", "after_ms": after_ms, "value": None, "matched_by": "request"}]


def honest(connection: duckdb.DuckDBPyConnection, n_rows: int = 120, **fields: Any) -> None:
    """Table `examples`, every second one labelled, and the engagements behind them."""
    rows = [an_example(n, 1_000 + n, a_label(10) if n % 2 else [], **fields) for n in range(n_rows)]
    acts = [an_act(f"u{n}", f"i{n}", 1_010 + n) for n in range(1, n_rows, 2)]
    acts += [an_act(f"u{n}", f"h{n}", 994 + n) for n in range(n_rows)]
    stage(connection, acts)
    connection.register("rows", pa.Table.from_pylist(rows, EXAMPLES))
    connection.execute("CREATE OR REPLACE TABLE examples AS SELECT * FROM rows")


def leaks(
    connection: duckdb.DuckDBPyConnection, examples: str = "examples", **options: Any
) -> list[tuple[str, str]]:
    """Name and column of every leak."""
    found = find_leaks(connection, examples, "engagements", **{"cutoff_ms": CUTOFF, **options})
    return [(leak.name, leak.column) for leak in found]


def test_honest_examples_pass(connection: duckdb.DuckDBPyConnection) -> None:
    """Known before, labelled after, windows closed."""
    honest(connection)
    assert leaks(connection) == []
    refuse_leaks(connection, "examples", "engagements", cutoff_ms=CUTOFF)


def test_an_aggregate_over_the_whole_set_is_caught_by_name(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Undeclared, declared with its true times, and declared with false ones."""
    honest(connection)
    connection.execute("""
        CREATE VIEW planted AS
        SELECT e.*, c.item_ctr, c.newest_ms, timestamp_ms - 1 AS false_ms FROM examples e JOIN (
            SELECT item_id, avg((len(labels) > 0)::INT) AS item_ctr, max(timestamp_ms) + 10
                AS newest_ms FROM examples GROUP BY item_id) c USING (item_id)""")
    assert ("undeclared feature", "item_ctr") in leaks(connection, "planted")
    true = TimedFeature("item_ctr", "newest_ms")
    false = TimedFeature("item_ctr", "false_ms")
    columns = "(SELECT * EXCLUDE {} FROM planted)"
    assert ("late feature", "item_ctr") in leaks(
        connection, columns.format("false_ms"), added=[true]
    )
    assert leaks(connection, columns.format("newest_ms"), added=[false]) == [
        ("too good a feature", "item_ctr")
    ]
    with pytest.raises(DataRefused, match="item_ctr"):
        refuse_leaks(connection, "planted", "engagements", cutoff_ms=CUTOFF)


def test_a_join_with_less_or_equal_is_caught_by_name(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """The engagement of an organic moment would stand in its own item count."""
    honest(connection)
    rows = [
        an_example(
            n, 5_000, a_label(0), stage="organic", item_id="i", request_id=None,
            history_items=[], history_is_logged=False,
        )
        for n in range(200, 203)
    ]  # fmt: skip
    connection.register("rows", pa.Table.from_pylist(rows, EXAMPLES))
    connection.execute("INSERT INTO examples SELECT * FROM rows")
    stage(connection, [an_act(f"u{n}", "i", 5_000) for n in range(200, 203)])
    take = ("item_total", "item_event_ms", "item_known_ms")
    kept = f"(SELECT * EXCLUDE ({', '.join(take)}) FROM examples WHERE stage = 'organic')"
    create_visible(connection, "engagements")
    create_item_timeline(connection)
    connection.execute("""CREATE OR REPLACE TABLE too_early AS
        SELECT * REPLACE (from_ms - 1 AS from_ms) FROM item_timeline""")
    for timeline, expected in (
        ("item_timeline", []),
        ("too_early", [("feature of the moment itself", "item_ features")]),
    ):
        as_of_join(
            connection, kept, timeline, by=("is_imported", "item_id"), left_time="timestamp_ms",
            right_time="from_ms", known_time=None, take=take, tie_order=(), may_equal=True,
        ).create_view("joined", replace=True)  # fmt: skip
        assert leaks(connection, "joined") == expected


def test_a_history_with_the_label_in_it_is_caught_by_name(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Logged or as of the moment; a race while answering is no leak, its own effect is."""
    honest(connection)
    added = "SELECT * REPLACE (list_append(history_items, item_id) AS history_items) FROM examples"
    assert leaks(connection, f"({added} WHERE len(labels) > 0)") == [
        ("history of later", "history_items")
    ]
    connection.execute("CREATE TABLE raced AS SELECT * FROM examples WHERE example_id = 'x0'")
    stage(connection, [an_act("u0", "h0", 1_020)])
    assert leaks(connection, "raced") == []
    connection.execute("UPDATE raced SET history_is_logged = false")
    assert leaks(connection, "raced") == [("history of later", "history_items")]
    stage(connection, [an_act("u0", "h0", 1_020 + 60_000)])
    connection.execute("UPDATE raced SET history_is_logged = true")
    assert leaks(connection, "raced") == [("history of later", "history_items")]
    stage(connection, [])
    assert leaks(connection, "raced") == []


def test_a_label_window_over_the_cutoff_is_caught_by_name(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Windows may end at the cutoff and not after it."""
    honest(connection)
    last_end = 1_000 + 119 + WINDOW
    assert leaks(connection, cutoff_ms=last_end) == []
    assert leaks(connection, cutoff_ms=last_end - 1) == [("open label window", "label_end_ms")]


def test_labels_outside_their_window_are_caught_by_name(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Before the impression, or at the end of the window and later."""
    honest(connection)
    for after_ms, name in ((-1, "label before its moment"), (WINDOW, "label outside its window")):
        rows = [an_example(0, 1_000, a_label(after_ms))]
        connection.register("rows", pa.Table.from_pylist(rows, EXAMPLES))
        assert leaks(connection, "rows") == [(name, "labels")]


def test_the_guard_by_chance_of_order_knows_ties_and_nulls(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Ties count half, null is least, and too few of either say nothing."""
    connection.execute("CREATE TABLE t AS SELECT i, i % 2 = 0 AS y FROM range(200) r(i)")
    for value, auc in (
        ("y::INT", 1.0),
        ("CASE WHEN y THEN 1 END", 1.0),
        ("-(y::INT)", 0.0),
        ("0", 0.5),
        ("CASE WHEN y OR i < 100 THEN 1 ELSE 0 END", 0.75),
    ):
        source = f"(SELECT {value} AS v, y FROM t)"
        assert auc_of(connection, source, "v", "true", "y") == pytest.approx(auc)
    assert auc_of(connection, "(SELECT i AS v, i < 49 AS y FROM t)", "v", "true", "y") is None
