"""The rules of an imported row: its time, its ids, its reasons for being refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events import MIN_TIMESTAMP_MS
from train_app.importing.row_rules import RowRules

NOW_MS = 1_800_000_000_000


def checked(**columns: Sequence[str | None]) -> list[dict[str, Any]]:
    """Rows after the rules, with defaults for the columns not given."""
    n_rows = len(next(iter(columns.values())))
    text = {"user_id": ["u"] * n_rows, "item_id": ["i"] * n_rows, **columns}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in text.items()})
    table = table.append_column("line", pa.array(range(1, n_rows + 1)))
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    rows: list[dict[str, Any]] = (
        RowRules(frozenset(text), "view", NOW_MS).check(connection, table, 100).to_pylist()
    )
    return rows


@settings(deadline=None, max_examples=8)
@given(st.integers(MIN_TIMESTAMP_MS // 1000, NOW_MS // 1000), st.integers(-12, 12))
def test_one_moment_is_the_same_in_every_unit(seconds: int, hours: int) -> None:
    """Seconds, milli-, micro- and nanoseconds, and ISO 8601 in any zone."""
    local = datetime.fromtimestamp(seconds, timezone(timedelta(hours=hours)))
    written = [
        str(seconds), f"{seconds}.0", str(seconds * 10**3), str(seconds * 10**6),
        str(seconds * 10**9), local.isoformat(),
        datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    ]  # fmt: skip
    rows = checked(timestamp=written)
    assert [row["timestamp_ms"] for row in rows] == [seconds * 1000] * len(written)
    assert [row["unit"] for row in rows] == ["s", "s", "ms", "us", "ns", "ISO 8601", "ISO 8601"]


def test_rows_that_break_a_rule_say_which() -> None:
    """Every rule, with a row that keeps it beside."""
    good = {"user_id": "u", "item_id": "i", "timestamp": "1600000000", "kind": "k", "value": "1"}
    cases: list[tuple[str, str | None, str | None]] = [
        ("value", "1.5", None),
        ("value", "", None),
        ("value", "NaN", None),
        ("user_id", "ü" * 128, None),
        ("user_id", "ü" * 129, "user_id is longer than 256 bytes"),
        ("user_id", "", "user_id is empty"),
        ("item_id", None, "item_id is empty"),
        ("kind", "", "kind is empty"),
        ("value", "x", "value is not a number"),
        ("value", "-inf", "value is not finite"),
        ("timestamp", "1", "timestamp is not between 1990 and an hour from now"),
        ("timestamp", str(NOW_MS + 3_600_001), "timestamp is not between 1990 and an hour"),
        ("timestamp", "soon", "timestamp is no number"),
        ("timestamp", None, "timestamp is no number"),
    ]
    rows = checked(
        **{
            name: [value if field == name else good[name] for field, value, _ in cases]
            for name in good
        }
    )
    for row, (_, _, reason) in zip(rows, cases, strict=True):
        assert (row["reason"] or "").startswith(reason or "")
        assert (row["reason"] is None) == (reason is None)


def test_ids_tell_rows_apart_and_untimed_rows_by_their_place() -> None:
    """Equal rows have equal ids; a shifted cut between user and item does not collide."""
    times = ["1600000000"] * 4
    rows = checked(user_id=["a", "a", "ab", "a"], item_id=["bc", "bc", "c", "bd"], timestamp=times)
    ids = [row["event_id"] for row in rows]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    untimed = checked(user_id=["a", "a"])
    assert untimed[0]["event_id"] != untimed[1]["event_id"]
    assert [row["sequence"] for row in untimed] == [101, 102]
