"""Counts and histories of users and items as they were known at a moment, over columns of events.

The windows are those of `recsys.feature_definitions`, which the online features are made with.
Every engagement is counted from when it is visible until its bucket leaves the window, so that a
count at a moment is a running sum up to it: exact, and one as-of join however long the window.
"""

from __future__ import annotations

import duckdb

from recsys.feature_definitions import BUCKETS_PER_WINDOW, WINDOWS_S, bucket_width_ms
from train_app.examples.as_of_join import as_of_join
from train_app.examples.example_schema import AS_OF_FEATURES


def create_visible(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    """View `visible`: the engagements of `source` as moments of each origin may know them.

    A moment of the log knows an engagement from when it was received, an imported one from the
    import on. A moment of imported history knows imported engagements only, and each as soon as
    it happened, for when its source learnt of it is not told.
    """
    others = "* EXCLUDE (is_imported, received_ms)"
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW visible AS
        SELECT *, greatest(event_ms + 1, known_ms) AS enters_ms FROM (
            SELECT false AS is_imported, is_imported AS was_imported, received_ms AS known_ms,
                {others} FROM {source}
            UNION ALL
            SELECT true, true, event_ms, {others} FROM {source} WHERE is_imported)""")


def create_user_timeline(connection: duckdb.DuckDBPyConnection, history_limit: int) -> None:
    """Table `user_timeline`: each user's window counts from every time on at which they change.

    An engagement counts for no longer than it is among the `history_limit` newest, since online
    counts are made of the history.
    """
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW user_entries AS
        SELECT *, lead(enters_ms, {int(history_limit)}) OVER (
            PARTITION BY is_imported, user_id ORDER BY event_ms, sequence, item_id) AS pushed_ms
        FROM visible""")
    _create_timeline(connection, "user", "user_entries")


def create_item_timeline(connection: duckdb.DuckDBPyConnection) -> None:
    """Table `item_timeline`: likewise, of items; `item_total` has no window.

    The online counts of the log's moments leave late engagements and imported ones out of their
    windows, so these do.
    """
    connection.execute("""
        CREATE OR REPLACE TEMP VIEW item_entries AS
        SELECT *, CASE WHEN is_late OR was_imported <> is_imported THEN enters_ms END AS pushed_ms
        FROM visible""")
    _create_timeline(connection, "item", "item_entries")


def with_counts(
    connection: duckdb.DuckDBPyConnection, group: str, moments: str
) -> duckdb.DuckDBPyRelation:
    """The moments with the `user` or `item` features as of them; counts of what is new are null.

    Args:
        moments: table with `is_imported`, `<group>_id` and `timestamp_ms`.
    """
    return as_of_join(
        connection,
        moments,
        f"{group}_timeline",
        by=("is_imported", f"{group}_id"),
        left_time="timestamp_ms",
        right_time="from_ms",
        known_time=None,  # a count stands from when its newest engagement was visible
        take=(*AS_OF_FEATURES[group], f"{group}_event_ms", f"{group}_known_ms"),
        tie_order=(),
        may_equal=True,
    )


def with_histories(
    connection: duckdb.DuckDBPyConnection, moments: str, history_length: int
) -> duckdb.DuckDBPyRelation:
    """The moments with `as_of_items`: the items that became known last before them.

    Args:
        moments: table with `is_imported`, `user_id` and `timestamp_ms`.
    """
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE user_histories AS
        SELECT is_imported, user_id, enters_ms, list((event_ms, sequence, item_id)) OVER (
            PARTITION BY is_imported, user_id ORDER BY enters_ms, event_ms, sequence, item_id
            ROWS BETWEEN {int(history_length) - 1} PRECEDING AND CURRENT ROW) AS newest,
            event_ms, sequence, item_id
        FROM visible""")
    joined = as_of_join(
        connection,
        moments,
        "user_histories",
        by=("is_imported", "user_id"),
        left_time="timestamp_ms",
        right_time="enters_ms",
        known_time=None,  # `enters_ms` is when it was visible already
        take=("newest",),
        tie_order=("event_ms", "sequence", "item_id"),
        may_equal=True,
    )
    return joined.project(
        "* EXCLUDE (newest), [entry[3] FOR entry IN list_sort(newest)] AS as_of_items"
    )


def _create_timeline(connection: duckdb.DuckDBPyConnection, group: str, entries: str) -> None:
    key = f"{group}_id"
    counts = _window_columns(group)
    changes = [_change(group, counts, None, entries)]
    changes += [_change(group, counts, window_s, entries) for window_s in WINDOWS_S]
    columns = [*AS_OF_FEATURES[group]]
    sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in columns)
    running = ", ".join(f"(sum({name}) OVER so_far)::BIGINT AS {name}" for name in columns)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE {group}_timeline AS
        SELECT is_imported, {key}, from_ms, {running},
            max(event_ms) OVER so_far AS {group}_event_ms,
            max(known_ms) OVER so_far AS {group}_known_ms
        FROM (
            SELECT is_imported, {key}, from_ms, {sums}, max(event_ms) AS event_ms,
                max(known_ms) AS known_ms
            FROM ({" UNION ALL ".join(changes)})
            GROUP BY is_imported, {key}, from_ms)
        WINDOW so_far AS (PARTITION BY is_imported, {key} ORDER BY from_ms
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)""")


def _window_columns(group: str) -> dict[str, tuple[int, str]]:
    """The window and the sign's condition of each windowed column."""
    return {
        f"{group}_{sign}_{window_s}s": (window_s, condition)
        for window_s in WINDOWS_S
        for sign, condition in (("positives", "NOT is_negative"), ("negatives", "is_negative"))
    }


def _change(
    group: str, counts: dict[str, tuple[int, str]], leaves: int | None, entries: str
) -> str:
    """SQL of the changes as engagements become visible, or as they leave one window."""
    columns: list[str] = []
    for name in AS_OF_FEATURES[group]:
        if name not in counts:
            columns.append(f"{'(NOT is_negative)::INTEGER' if leaves is None else '0'} AS {name}")
            continue
        window_s, condition = counts[name]
        is_counted = f"({condition} AND enters_ms < {_leaves(window_s)})::INTEGER"
        if leaves is None:
            columns.append(f"{is_counted} AS {name}")
        else:
            columns.append(f"{f'-{is_counted}' if window_s == leaves else '0'} AS {name}")
    if leaves is None:
        times = "enters_ms AS from_ms, event_ms, known_ms"
        where = ""
    else:
        times = f"{_leaves(leaves)} AS from_ms, NULL::BIGINT AS event_ms, NULL::BIGINT AS known_ms"
        where = f" WHERE enters_ms < {_leaves(leaves)}"
    key = f"is_imported, {group}_id"
    return f"SELECT {key}, {times}, {', '.join(columns)} FROM {entries}{where}"


def _leaves(window_s: int) -> str:
    """SQL of when an engagement leaves a window: its bucket is then the thirteenth from the end."""
    width_ms = bucket_width_ms(window_s)
    leaves = f"event_ms - event_ms % {width_ms} + {BUCKETS_PER_WINDOW * width_ms}"
    return f"least({leaves}, coalesce(pushed_ms, {leaves}))"
