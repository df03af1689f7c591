"""The as-of join against a reference that looks at every pair of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recsys.errors import DataError
from train_app.examples.as_of_join import as_of_join

Left = tuple[str | None, int | None]
Right = tuple[str | None, int | None, int | None, int]

keys = st.sampled_from(["a", "b", None])
times = st.one_of(st.none(), st.integers(0, 12))
lefts = st.lists(st.tuples(keys, times), max_size=12)
rights = st.lists(st.tuples(keys, times, times, st.integers(0, 3)), max_size=16)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    with duckdb.connect(config={"threads": 2}) as opened:
        yield opened


def tables(connection: duckdb.DuckDBPyConnection, left: list[Left], right: list[Right]) -> None:
    """Tables `l` (place, key, t) and `r` (key, happened, known, value)."""
    connection.execute("""
        CREATE OR REPLACE TABLE l (place BIGINT, key VARCHAR, t BIGINT);
        CREATE OR REPLACE TABLE r (key VARCHAR, happened BIGINT, known BIGINT, value BIGINT)""")
    schemas = {"l": ["place", "key", "t"], "r": ["key", "happened", "known", "value"]}
    placed = [(place, *row) for place, row in enumerate(left)]
    for name, rows in (("l", placed), ("r", right)):
        if rows:
            fields = [pa.field(n, pa.string() if n == "key" else pa.int64()) for n in schemas[name]]
            columns = [list(column) for column in zip(*rows, strict=True)]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, fields, strict=True)]
            connection.register("incoming", pa.table(arrays, schema=pa.schema(fields)))
            connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")
            connection.unregister("incoming")


def joined(connection: duckdb.DuckDBPyConnection, **options: Any) -> list[int | None]:
    """The value each left row was given, in the order of the left rows."""
    relation = as_of_join(
        connection,
        "l",
        "r",
        **{
            "by": ("key",),
            "left_time": "t",
            "right_time": "happened",
            "known_time": "known",
            "take": ("value",),
            **options,
        },
    )
    return [row[3] for row in sorted(relation.fetchall())]


def expected(
    left: list[Left],
    right: list[Right],
    *,
    knows: bool = True,
    may_equal: bool = False,
    max_age_ms: int | None = None,
) -> list[int | None]:
    """The same by looking at every pair."""
    answers: list[int | None] = []
    for key, t in left:
        visible = []
        for other, happened, known, value in right:
            if None in {key, t, other, happened} or (knows and known is None) or key != other:
                continue
            assert t is not None and happened is not None
            after = happened <= t if may_equal else happened < t
            if after and (not knows or (known is not None and known <= t)):
                visible.append((happened, known if knows and known is not None else 0, value))
        newest = max(visible, default=None)
        old = newest is not None and max_age_ms is not None and newest[0] < (t or 0) - max_age_ms
        answers.append(None if newest is None or old else newest[2])
    return answers


@given(left=lefts, right=rights)
@hypothesis_settings(deadline=None, max_examples=30)
def test_every_left_row_gets_the_newest_row_that_was_known(
    connection: duckdb.DuckDBPyConnection, left: list[Left], right: list[Right]
) -> None:
    """Late and corrected rows, ties, duplicates and missing keys or times, with both rules on."""
    tables(connection, left, right)
    assert joined(connection) == expected(left, right)


@given(left=lefts, right=rights, may_equal=st.booleans(), age=st.integers(0, 12))
@hypothesis_settings(deadline=None, max_examples=15)
def test_rules_that_are_switched_off_are_off_and_no_other(
    connection: duckdb.DuckDBPyConnection,
    left: list[Left],
    right: list[Right],
    may_equal: bool,
    age: int,
) -> None:
    """Equal times, known times and ages each by its own option."""
    tables(connection, left, right)
    assert joined(connection, may_equal=may_equal) == expected(left, right, may_equal=may_equal)
    assert joined(connection, max_age_ms=age) == expected(left, right, max_age_ms=age)
    known = {"known_time": None, "may_equal": may_equal, "tie_order": ("value",)}
    assert joined(connection, **known) == expected(left, right, knows=False, may_equal=may_equal)


def test_what_becomes_known_late_is_no_answer_before_and_none_behind_a_newer_one(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """A row of 5 known at 20 answers from 20 on, unless one of 6 was known by then."""
    tables(connection, [("a", 19), ("a", 20)], [("a", 5, 20, 1), ("a", 2, 2, 0)])
    assert joined(connection) == [0, 1]
    tables(connection, [("a", 19), ("a", 20)], [("a", 5, 20, 1), ("a", 6, 7, 2)])
    assert joined(connection) == [2, 2]


def test_a_correction_replaces_what_it_corrects_from_when_it_is_known(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Of equal event times the one that became known last is taken."""
    tables(connection, [("a", 8), ("a", 9)], [("a", 5, 5, 3), ("a", 5, 9, 1)])
    assert joined(connection) == [3, 1]


def test_left_rows_stay_as_they_are_duplicates_too(connection: duckdb.DuckDBPyConnection) -> None:
    """Each once, matched or not, with all its columns."""
    tables(connection, [("a", 3), ("a", 3), (None, 3), ("a", None)], [("a", 1, 1, 7)] * 3)
    relation = as_of_join(
        connection, "l", "r", by=("key",), left_time="t", right_time="happened",
        known_time="known",
    )  # fmt: skip
    assert relation.columns == ["place", "key", "t", "happened", "known", "value"]
    assert sorted(relation.fetchall()) == [
        (0, "a", 3, 1, 1, 7),
        (1, "a", 3, 1, 1, 7),
        (2, None, 3, None, None, None),
        (3, "a", None, None, None, None),
    ]


def test_a_wrong_column_is_named(connection: duckdb.DuckDBPyConnection) -> None:
    """Missing columns, doubled ones, and times that are no milliseconds."""
    tables(connection, [], [])
    with pytest.raises(DataError, match="no column 'seen'"):
        joined(connection, known_time="seen")
    with pytest.raises(DataError, match="'key' twice"):
        joined(connection, take=("key",))
    connection.execute(
        "CREATE OR REPLACE VIEW dated AS SELECT * REPLACE (now() AS happened) FROM r"
    )
    with pytest.raises(DataError, match="whole milliseconds"):
        as_of_join(
            connection, "l", "dated", by=("key",), left_time="t", right_time="happened",
            known_time=None,
        )  # fmt: skip
