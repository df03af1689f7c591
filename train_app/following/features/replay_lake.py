"""Fills a feature store from the lake, as following the whole log would have; part of its writer.

Imported histories come first, then each partition's rows by offset, with the same fold and the
same compare-and-set as the log's: it may be broken off, go on, and run twice at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import duckdb

from recsys.events import CatalogueChange, Engagement
from recsys.stores.features.feature_update import FeatureWriter
from recsys.stores.log.event_log import EventLog
from train_app.following.features.feature_fold import FoldRules
from train_app.following.features.feature_records import DecodedPart, FeatureEvent
from train_app.following.features.forgotten_since import forget_since
from train_app.following.features.load_history import imported_histories, load_in_parts
from train_app.following.lake_snapshot import LakeTables, find_tables
from train_app.following.store_part import store_part
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_rows import IMPORT_MARK

OFFSETS_PER_QUERY = 100_000
EVENTS_PER_UPDATE = 2_000


def find_replay(
    log: EventLog,
    location: str,
    writer: FeatureWriter,
    rules: FoldRules,
    stored: Mapping[int, int | None],
    popular_limit: int,
) -> Iterator[int] | None:
    """The replay of what the lake has and the store has not; None where there is nothing.

    Args:
        log: where it is looked up who was forgotten during the replay.
        stored: the partitions to fill, with their stored offsets. Where one has none, the imported
            histories may be missing too.
    """
    tables = find_tables(location) if stored else None
    if tables is None:
        return None
    ends = tables.ends(stored)
    with_imports = None in stored.values() and tables.engagements.mark(IMPORT_MARK) is not None
    if not ends and not with_imports:
        return None
    return replay(
        tables,
        ends,
        writer,
        rules,
        popular_limit,
        with_imports=with_imports,
        after_imports=lambda: forget_since(log, tables, location, writer),
    )


def replay(
    tables: LakeTables,
    ends: Mapping[int, int],
    writer: FeatureWriter,
    rules: FoldRules,
    popular_limit: int,
    *,
    with_imports: bool,
    after_imports: Callable[[], object] = lambda: None,
) -> Iterator[int]:
    """Fill a store step by step; each step is stored and tells how many rows or users it took.

    Args:
        ends: the partitions to fill, with the offsets to end at.
        after_imports: called once the imported histories are in.
    """
    with lake_errors("read", tables.engagements.location), duckdb.connect() as connection:
        tables.attach(connection)
        if with_imports:
            histories = imported_histories(connection, "lake_engagements", rules.history_limit)
            for load in load_in_parts(writer, histories, rules, popular_limit):
                yield load.n_users
            after_imports()
        for partition, end in sorted(ends.items()):
            yield from _replay_partition(connection, partition, end, writer, rules)


def _replay_partition(
    connection: duckdb.DuckDBPyConnection,
    partition: int,
    end: int,
    writer: FeatureWriter,
    rules: FoldRules,
) -> Iterator[int]:
    stored = writer.offset(partition)
    start = stored or 0
    while start < end:
        stop = min(end, start + OFFSETS_PER_QUERY)
        for part in _parts(connection, partition, start, stop):
            if store_part(writer, stored, part, rules) is None:
                # Somebody else goes on with it; whoever follows the log starts where that ends.
                return
            stored = part.next_offset
            yield len(part.events)
        start = stop


def _parts(
    connection: duckdb.DuckDBPyConnection, partition: int, start: int, stop: int
) -> Iterator[DecodedPart]:
    """The events of some offsets, in runs; the last run ends at `stop`."""
    placed = _engagements(connection, partition, start, stop)
    placed += _changes(connection, partition, start, stop)
    placed.sort(key=lambda entry: entry[0])
    for first in range(0, max(1, len(placed)), EVENTS_PER_UPDATE):
        run = placed[first : first + EVENTS_PER_UPDATE]
        is_last = first + EVENTS_PER_UPDATE >= len(placed)
        next_offset = stop if is_last else run[-1][0] + 1
        yield DecodedPart(partition, next_offset, tuple(event for _, event in run))


def _engagements(
    connection: duckdb.DuckDBPyConnection, partition: int, start: int, stop: int
) -> list[tuple[int, FeatureEvent]]:
    columns = "event_id, kind, user_id, item_id, timestamp_ms, received_at_ms, origin"
    rows = _rows(connection, "lake_engagements", columns, partition, start, stop)
    return [(row.pop("log_offset"), Engagement(**row)) for row in rows]


def _changes(
    connection: duckdb.DuckDBPyConnection, partition: int, start: int, stop: int
) -> list[tuple[int, FeatureEvent]]:
    columns = (
        "event_id, item_id, timestamp_ms, deleted, coalesce(title, '') AS title,"
        " coalesce(categories, []) AS categories, coalesce(creator, '') AS creator, created_ms"
    )
    rows = _rows(connection, "lake_catalogue", columns, partition, start, stop)
    return [
        (
            row.pop("log_offset"),
            CatalogueChange(categories=tuple(row.pop("categories")), **row),
        )
        for row in rows
    ]


def _rows(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    columns: str,
    partition: int,
    start: int,
    stop: int,
) -> list[dict[str, Any]]:
    query = (
        f"SELECT log_offset, {columns} FROM {view} WHERE log_partition = {partition}"
        f" AND log_offset >= {start} AND log_offset < {stop}"
    )
    rows: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
    return rows
