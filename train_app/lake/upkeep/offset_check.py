"""Goes through the offsets of one partition and counts where the lake has each of them.

Memory is bounded: offsets are gone through in slices, two bytes each.
"""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import numpy as np
import numpy.typing as npt

OFFSETS_PER_SLICE = 50_000_000
MAX_EXAMPLES = 5
_ROWS_PER_READ = 1_000_000
_GAP, _OPEN, _FIRM = 1, 2, 4
_KIND = {"gap": _GAP, "forgotten": _OPEN, "void": _OPEN}
"""Beside an open note a row may still stand: a forgetting was cut short and has to be completed."""

Flags = npt.NDArray[np.uint8]


def offset_problems(
    connection: duckdb.DuckDBPyConnection,
    partition: int,
    tables: Collection[str],
    end: int,
    top: int,
    per_slice: int = OFFSETS_PER_SLICE,
) -> list[str]:
    """What is wrong with the offsets of a partition, a sentence each.

    Args:
        connection: has a view for each of `tables`, one of which may be `skipped`.
        end: below it every offset has to be somewhere.
        top: the highest mark of any table; nothing lies at it or above.
    """
    problems: dict[str, list[tuple[int, int]]] = {}
    for start in range(0, top, per_slice):
        stop = min(start + per_slice, top)
        n_rows = _row_counts(connection, partition, tables, start, stop)
        noted = _notes(connection, partition, tables, start, stop)
        wanted = np.arange(start, stop) < end
        for what, wrong in (
            ("are in no table and not noted as skipped", wanted & (n_rows == 0) & (noted == 0)),
            ("are in the lake more than once", n_rows > 1),
            ("have a row and are noted as skipped", (n_rows > 0) & (noted & _FIRM > 0)),
            (
                "are noted as forgotten and still have a row: run 'cluster events forget' again",
                (n_rows > 0) & (noted & _OPEN > 0),
            ),
        ):
            problems.setdefault(what, []).extend(_ranges(wrong, start))
    return [
        f"partition {partition}: {sum(b - a for a, b in found):,} offsets {what}: {_named(found)}"
        for what, found in problems.items()
        if found
    ]


def first_missing(
    connection: duckdb.DuckDBPyConnection, partition: int, tables: Collection[str], end: int
) -> int:
    """The first offset that is in none of the tables, as `offset_problems` sees it; else `end`."""
    for start in range(0, end, OFFSETS_PER_SLICE):
        stop = min(start + OFFSETS_PER_SLICE, end)
        n_rows = _row_counts(connection, partition, tables, start, stop)
        noted = _notes(connection, partition, tables, start, stop)
        missing = np.flatnonzero((n_rows == 0) & (noted == 0))
        if len(missing):
            return start + int(missing[0])
    return end


def read_column(
    connection: duckdb.DuckDBPyConnection, query: str, kind: type[np.generic]
) -> list[npt.NDArray[np.generic]]:
    """The one column of a query, as arrays of bounded length."""
    reader = connection.sql(query).to_arrow_reader(_ROWS_PER_READ)
    return [batch.column(0).to_numpy(zero_copy_only=False).astype(kind) for batch in reader]


def _row_counts(
    connection: duckdb.DuckDBPyConnection,
    partition: int,
    tables: Collection[str],
    start: int,
    stop: int,
) -> Flags:
    """How many rows stand at each offset, in all tables but `skipped`; 2 means more than one."""
    counts = np.zeros(stop - start, dtype=np.uint8)
    for name in tables:
        if name == "skipped":
            continue
        query = (
            f"SELECT log_offset FROM {name} WHERE log_partition = {partition}"
            f" AND log_offset >= {start} AND log_offset < {stop}"
        )
        for offsets in read_column(connection, query, np.int64):
            places = offsets.astype(np.int64) - start
            distinct, times = np.unique(places, return_counts=True)
            counts[distinct] += np.minimum(times, 2).astype(np.uint8)
            np.minimum(counts, 2, out=counts)
    return counts


def _notes(
    connection: duckdb.DuckDBPyConnection,
    partition: int,
    tables: Collection[str],
    start: int,
    stop: int,
) -> Flags:
    """What `skipped` says of each offset, as flags."""
    flags = np.zeros(stop - start, dtype=np.uint8)
    if "skipped" not in tables:
        return flags
    query = (
        f"FROM skipped WHERE log_partition = {partition} AND log_offset < {stop}"
        f" AND end_offset > {start}"
    )
    for (reason,) in connection.execute(f"SELECT DISTINCT reason {query}").fetchall():
        kind = _KIND.get(reason, _FIRM)
        single = (
            f"SELECT log_offset {query} AND reason = '{reason}' AND end_offset = log_offset + 1"
        )
        for offsets in read_column(connection, single, np.int64):
            flags[offsets.astype(np.int64) - start] |= kind
        longer = connection.execute(
            f"SELECT log_offset, end_offset {query} AND reason = $1"
            " AND end_offset > log_offset + 1",
            [reason],
        ).fetchall()
        for first, end in longer:
            flags[max(first, start) - start : min(end, stop) - start] |= kind
    return flags


def _ranges(wrong: npt.NDArray[np.bool_], start: int) -> list[tuple[int, int]]:
    """Runs of true, as offsets from and to, the last one exclusive."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]]).astype(np.int8)))
    return [(start + int(a), start + int(b)) for a, b in edges.reshape(-1, 2)]


def _named(found: list[tuple[int, int]]) -> str:
    named = [str(a) if b == a + 1 else f"{a} to {b - 1}" for a, b in found[:MAX_EXAMPLES]]
    return ", ".join(named) + (", ..." if len(found) > MAX_EXAMPLES else "")
