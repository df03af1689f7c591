"""Reads engagements and items of the lake, at pinned versions, as the arrays training reads.

Also splits them: by time, and by leaving each user's last engagement out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from recsys.errors import DataError, StoreError
from recsys.settings import Settings
from recsys.types import Item
from train_app.examples.diverted_engagements import stage_diverted
from train_app.examples.interactions import Interactions
from train_app.importing.import_entries import latest_entries
from train_app.importing.staging import open_database, scratch_folder
from train_app.lake.lake_rows import log_mark
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake, LakeTable


def load_interactions(
    lake_location: str, settings: Settings, *, until_ms: int | None = None
) -> Interactions:
    """All engagements with items that are in the catalogue or were never taken out of it.

    The item table is the catalogue by item id, then the engaged items without an entry by item
    id. At equal times imported engagements stand before logged ones, each in order of arrival.
    `train.diverted_to` leaves out what other sides of an experiment brought.

    Args:
        until_ms: only what happened before this time; None reads everything.

    Raises:
        DataError: the lake has no engagements.
        ConfigError: there is no such side.
        StoreError: the lake cannot be read.
    """
    lake = Lake(lake_location)
    engagements, catalogue = lake.find("engagements"), lake.find("catalogue")
    side = settings.train.diverted_to
    impressions = lake.find("impressions") if side else None
    if engagements is None:
        raise DataError(
            f"the lake {lake_location} has no engagements yet, expected some to learn from; run"
            " 'cluster import SOURCE' first"
        )
    scratch = settings.data_dir / "tmp"
    try:
        with scratch_folder(scratch) as folder, open_database(folder) as connection:
            engagements.attach(connection, "all_engagements")
            window_ms = settings.attribution.window_s * 1000
            diverted = _divert(connection, impressions, side, window_ms) if side else {}
            _attach(connection, catalogue, until_ms, is_diverted=bool(side))
            interactions = _build(connection)
    except (OSError, duckdb.Error) as error:
        raise StoreError(
            f"could not read the lake {lake_location}: {error}; check that its files are whole and"
            f" that {scratch} has space"
        ) from error
    if not len(interactions):
        raise DataError(
            f"the lake {lake_location} has no engagements"
            + (f" before {until_ms} ms" if until_ms is not None else "")
            + ", expected some to learn from; run 'cluster import SOURCE' first"
        )
    tables = [table for table in (engagements, catalogue, impressions) if table]
    lineage = _lineage(tables, until_ms, settings.events.n_partitions)
    return replace(interactions, lineage=lineage | diverted)


def split_by_time(interactions: Interactions, holdout_share: float) -> int:
    """The cutoff in milliseconds: engagements at or after it are held out, at least one is.

    About `holdout_share` of the engagements are, the newest; those of equal time stay together,
    held out if they are among the newest share.

    Raises:
        DataError: all engagements have the same time, so none is left to learn from.
    """
    times = np.sort(interactions.timestamps_ms)
    n_held_out = min(len(times), max(1, round(len(times) * holdout_share)))
    cutoff_ms = int(times[-n_held_out])
    if cutoff_ms == times[0]:
        later = times[times > times[0]]
        if not len(later):
            raise DataError(
                f"all {len(times)} engagements have the same time, so the newest cannot be held"
                " out; import data with a timestamp column"
            )
        cutoff_ms = int(later[0])
    return cutoff_ms


def _divert(
    connection: duckdb.DuckDBPyConnection,
    impressions: LakeTable | None,
    side: str,
    window_ms: int,
) -> dict[str, object]:
    """Make the table `diverted`; what the lineage says of it."""
    if impressions is None:
        connection.register("all_impressions", TABLES["impressions"].empty_table())
    else:
        impressions.attach(connection, "all_impressions")
    n_left_out = stage_diverted(connection, side, window_ms)
    return {"diverted_to": {"side": side, "n_left_out": n_left_out}}


def _attach(
    connection: duckdb.DuckDBPyConnection,
    catalogue: LakeTable | None,
    until_ms: int | None,
    *,
    is_diverted: bool,
) -> None:
    """Make the tables that `_build` queries, of `all_engagements` and, if so, `diverted`."""
    if catalogue is None:
        connection.register("all_entries", TABLES["catalogue"].empty_table())
    else:
        catalogue.attach(connection, "all_entries")
    without = "ANTI JOIN diverted USING (event_id)" if is_diverted else ""
    before = "" if until_ms is None else f"WHERE timestamp_ms < {int(until_ms)}"
    connection.execute(f"""
        CREATE TABLE entries AS {latest_entries("all_entries", "item_id")};
        CREATE TABLE kept AS SELECT * FROM
            (SELECT user_id, item_id, kind, timestamp_ms, value, log_partition, sequence,
                    request_id IS NOT NULL AS is_prompted
                FROM all_engagements {without} {before})
            ANTI JOIN (SELECT item_id FROM entries WHERE deleted) USING (item_id);
        CREATE TABLE items AS SELECT row_number() OVER
                (ORDER BY is_bare, item_id) - 1 AS row, * FROM (
            SELECT item_id, title, categories, creator, created_ms, false AS is_bare
                FROM entries WHERE NOT deleted
            UNION ALL SELECT DISTINCT item_id, '', [], '', NULL, true
                FROM kept ANTI JOIN entries USING (item_id));
        CREATE TABLE users AS SELECT row_number() OVER (ORDER BY user_id) - 1 AS row, user_id
            FROM (SELECT DISTINCT user_id FROM kept);
        CREATE TABLE kinds AS SELECT row_number() OVER (ORDER BY n DESC, kind) - 1 AS row,
            kind FROM (SELECT kind, count(*) AS n FROM kept GROUP BY kind)""")


def _build(connection: duckdb.DuckDBPyConnection) -> Interactions:
    kinds = _column(connection, "SELECT kind FROM kinds ORDER BY row").to_pylist()
    if len(kinds) > np.iinfo(np.uint8).max:
        raise DataError(
            f"the engagements have {len(kinds)} kinds, expected at most 255; was the right column"
            " imported as kind?"
        )
    columns = connection.sql("""
        SELECT users.row::INTEGER AS user_row, items.row::INTEGER AS item_row,
            kinds.row::UTINYINT AS kind_row, timestamp_ms,
            coalesce(value::FLOAT, 'nan'::FLOAT) AS value, is_prompted
        FROM kept JOIN users USING (user_id) JOIN items USING (item_id) JOIN kinds USING (kind)
        ORDER BY user_row, timestamp_ms, log_partition NULLS FIRST, sequence, item_row, kind_row
        """).to_arrow_table()
    user_ids = _column(connection, "SELECT user_id FROM users ORDER BY row").to_pylist()
    counts = np.bincount(columns["user_row"].to_numpy(), minlength=len(user_ids))
    return Interactions(
        user_ids=user_ids,
        items=_items(connection),
        kinds=tuple(kinds),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows=_owned(columns["item_row"], np.int32),
        kind_ids=_owned(columns["kind_row"], np.uint8),
        timestamps_ms=_owned(columns["timestamp_ms"], np.int64),
        values=_owned(columns["value"], np.float32),
        is_prompted=_owned(columns["is_prompted"], np.bool_),
    )


def _items(connection: duckdb.DuckDBPyConnection) -> list[Item]:
    table = connection.sql(
        "SELECT item_id, title, categories, creator, created_ms FROM items ORDER BY row"
    ).to_arrow_table()
    columns = (table[name].to_pylist() for name in table.column_names)
    return [
        Item(item_id, title, tuple(categories), creator, created_ms)
        for item_id, title, categories, creator, created_ms in zip(*columns, strict=True)
    ]


def _lineage(tables: list[LakeTable], until_ms: int | None, n_partitions: int) -> dict[str, object]:
    """What was read, the engagements first."""
    marks = {str(part): tables[0].mark(log_mark(part)) for part in range(n_partitions)}
    return {
        "lake_versions": {table.name: table.version for table in tables},
        "log_offsets": {part: end for part, end in marks.items() if end is not None},
        "until_ms": until_ms,
    }


def _column(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    return connection.sql(query).to_arrow_table().column(0)


def _owned(column: pa.ChunkedArray, kind: type[np.generic]) -> Any:
    """A writable array of its own, so that the Arrow table can be freed."""
    return np.array(column.to_numpy(), dtype=kind)
