"""Joins rows with what was known at their moment, by DuckDB's ASOF join; knows no lake.

A value is visible from the later of two times: just after it happened and when it became known.
Both rules are on unless a caller switches them off by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from recsys.errors import DataError

_INTEGERS = {"BIGINT", "INTEGER", "HUGEINT", "UINTEGER", "SMALLINT", "TINYINT"}


def as_of_join(
    connection: duckdb.DuckDBPyConnection,
    left: str,
    right: str,
    *,
    by: Sequence[str],
    left_time: str,
    right_time: str,
    known_time: str | None,
    take: Sequence[str] | None = None,
    tie_order: Sequence[str] | None = None,
    may_equal: bool = False,
    max_age_ms: int | None = None,
) -> duckdb.DuckDBPyRelation:
    """Every left row once, with the newest right row of its keys that was visible at its time.

    A right row is visible at time t where `right_time < t` and `known_time <= t`. Of the visible
    ones that with the newest `right_time` is taken; of equal ones the one that became known last
    (a correction), then the greatest by `tie_order`. A right row without a key or a time is never
    visible; a left row without one matches nothing. Nothing is read before the relation is used.

    Args:
        left: name of a table or view, or a query in parentheses.
        right: likewise.
        by: columns of both sides whose values must be equal.
        left_time: the moment, in ms.
        right_time: when the right row happened, in ms.
        known_time: when the right row became known, in ms; None declares that every row was known
            as soon as it happened.
        take: columns of the right side to add; all but `by` where left out.
        tie_order: columns that decide between rows equal in both times; every other column, in
            column order, where left out.
        may_equal: whether a right row is visible at its own `right_time` already. That lets a
            label into its own features unless `right_time` is later than what the row holds.
        max_age_ms: right rows that happened more than this before the moment count as none.

    Raises:
        DataError: a column is missing, not an integer time, or on both sides.
    """
    known = [known_time] if known_time else []
    left_columns = _columns(connection, left)
    right_columns = _columns(connection, right)
    keys_and_times = {*by, right_time, *known}
    added = [n for n in right_columns if n not in by] if take is None else list(take)
    ties = [n for n in right_columns if n not in keys_and_times] if tie_order is None else tie_order
    _check(left, left_columns, [*by, left_time], [left_time])
    _check(right, right_columns, [*keys_and_times, *added, *ties], [right_time, *known])
    _refuse_doubled(set(added) & set(left_columns))
    visible = _visible(right, by, right_time, known_time, added, ties, may_equal)
    return connection.sql(_joined(left, visible, by, left_time, added, max_age_ms))


def _joined(
    left: str,
    visible: str,
    by: Sequence[str],
    left_time: str,
    added: Sequence[str],
    max_age_ms: int | None,
) -> str:
    equal = "".join(f"l.{_name(key)} = r.{_name(key)} AND " for key in by)
    columns = "".join(f", {_taken(name, left_time, max_age_ms)}" for name in added)
    return (
        f"SELECT l.*{columns} FROM {left} AS l ASOF LEFT JOIN ({visible}) AS r"
        f" ON {equal}l.{_name(left_time)} >= r._visible_ms"
    )


def _visible(
    right: str,
    by: Sequence[str],
    right_time: str,
    known_time: str | None,
    added: Sequence[str],
    ties: Sequence[str],
    may_equal: bool,
) -> str:
    """The right rows that are ever the answer, each from the moment it becomes the answer.

    Walking in the order in which rows become visible, a row is the answer from then on only where
    it is the newest so far; a row that becomes visible behind a newer one never is.
    """
    keys = ", ".join(map(_name, by))
    happened = _name(right_time)
    earliest = happened if may_equal else f"{happened} + 1"
    known = _name(known_time) if known_time else ""
    from_ms = f"greatest({earliest}, {known})" if known else earliest
    order = ["_visible_ms", "_happened_ms", *([known] if known else []), *map(_name, ties)]
    window = (
        f"({f'PARTITION BY {keys} ' if keys else ''}"
        f"ORDER BY {', '.join(f'{column} NULLS FIRST' for column in order)}"
        " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    )
    needed = [f"{_name(column)} IS NOT NULL" for column in [*by, right_time]]
    needed += [f"{known} IS NOT NULL"] if known else []
    columns = [_name(name) for name in dict.fromkeys([*by, *added, *ties])]
    columns += [known] if known and known not in columns else []
    return f"""
        SELECT * EXCLUDE (_newest_ms, _next_ms) FROM (
            SELECT *, max(_happened_ms) OVER known_so_far AS _newest_ms,
                lead(_visible_ms) OVER known_so_far AS _next_ms
            FROM (SELECT {"".join(f"{column}, " for column in columns)}
                    {happened} AS _happened_ms, {from_ms} AS _visible_ms
                FROM {right} WHERE {" AND ".join(needed)})
            WINDOW known_so_far AS {window})
        WHERE _happened_ms = _newest_ms AND _next_ms IS DISTINCT FROM _visible_ms"""


def _taken(name: str, left_time: str, max_age_ms: int | None) -> str:
    column = f"r.{_name(name)}"
    if max_age_ms is not None:
        oldest = f"l.{_name(left_time)} - {int(max_age_ms)}"
        column = f"CASE WHEN r._happened_ms >= {oldest} THEN {column} END"
    return f"{column} AS {_name(name)}"


def _refuse_doubled(names: set[str]) -> None:
    if names:
        raise DataError(
            f"the as-of join would have column {min(names)!r} twice, expected names that only one"
            " side has; rename it, or leave it out of 'take'"
        )


def _columns(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Names and types of a source's columns."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return {row[0]: str(row[1]) for row in described}


def _check(
    source: str, columns: dict[str, str], wanted: Sequence[str], times: Sequence[str]
) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{source} has no column {missing[0]!r}, expected it for an as-of join; it has"
            f" {', '.join(columns)}"
        )
    wrong = [name for name in times if columns[name] not in _INTEGERS]
    if wrong:
        raise DataError(
            f"column {wrong[0]!r} of {source} is {columns[wrong[0]]}, expected whole milliseconds"
            " since 1970; convert it with epoch_ms()"
        )


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
