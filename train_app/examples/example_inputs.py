"""The lake's engagements and impressions, cut into parts by user and by item, and what is drawn.

Writes Parquet files under one folder, which is all that the parts read; knows the lake's columns.
Whatever is larger than memory streams through.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.dataset as pa_dataset

from train_app.examples.example_rules import ExampleRules
from train_app.examples.join_database import sql_text, sql_texts
from train_app.examples.negatives_of_path import POOL_STEP_MS, is_scored_sql
from train_app.lake.lake_files import files_of
from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES

ROWS_PER_FLUSH = 20_000
"""Rows of one part that wait in memory; an impression holds some kilobytes."""


@dataclass(frozen=True, slots=True)
class StagedParts:
    """Where the staged rows lie."""

    folder: Path

    def engagements(self, part: int | None = None) -> str:
        """SQL that reads the engagements of a part of the users, or all."""
        return _read(self.folder / "engagements", "user_part", part)

    def impressions(self, part: int) -> str:
        """SQL that reads the impressions of a part of the users."""
        return _read(self.folder / "impressions", "user_part", part)

    def item_events(self, part: int) -> str:
        """SQL that reads what counts of items are made of, of a part of the items."""
        return _read(self.folder / "item_events", "item_part", part)

    def drafts(self, part: int) -> str:
        """SQL that reads the examples of a part of the items, still without item features."""
        return _read(self.folder / "drafts", "item_part", part)

    def pool(self, name: str) -> Path:
        """The file of `items`, `engagements`, `sizes` or `changes`."""
        return self.folder / f"pool-{name}.parquet"

    @property
    def late_events(self) -> Path:
        """The file of the ids of engagements that came too late for the windows."""
        return self.folder / "late.parquet"


def attach_file(connection: duckdb.DuckDBPyConnection, view: str, name: str, uri: str) -> None:
    """Let DuckDB read one data file of lake table `name`; columns it lacks are null."""
    schema = TABLES[name]
    schema = schema.remove(schema.get_field_index(PARTITION_COLUMN))
    filesystem, path = files_of(uri)
    connection.register(
        view, pa_dataset.dataset(path, schema=schema, format="parquet", filesystem=filesystem)
    )


def stage_late_events(
    connection: duckdb.DuckDBPyConnection, parts: StagedParts, source: str, lateness_ms: int
) -> None:
    """Write the ids of the engagements that `feature_definitions.is_late` says came too late.

    It takes the whole log in order, and few are; so their ids go to wherever parts are staged.
    """
    _copy(
        connection,
        f"""SELECT event_id FROM (
                SELECT event_id, timestamp_ms, max(least(timestamp_ms, received_at_ms)) OVER (
                    PARTITION BY log_partition ORDER BY log_offset
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS watermark_ms
                FROM {source} WHERE log_partition IS NOT NULL)
            WHERE timestamp_ms < watermark_ms - {int(lateness_ms)}""",
        parts.late_events,
    )


def stage_engagements(
    connection: duckdb.DuckDBPyConnection,
    parts: StagedParts,
    source: str,
    rules: ExampleRules,
    prefix: str = "rows",
) -> None:
    """Cut engagements into parts by user, and what counts of items need by item.

    Args:
        prefix: begins the names of the written files; each writer needs its own.
    """
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW lake_engagements AS
        SELECT event_id, user_id, item_id, kind, timestamp_ms AS event_ms,
            coalesce(received_at_ms, timestamp_ms) AS received_ms, value, request_id,
            origin = 'import' AS is_imported, coalesce(sequence, 0) AS sequence,
            list_contains({sql_texts(rules.negative_kinds)}, kind) AS is_negative,
            event_id IN (SELECT event_id FROM {_file(parts.late_events)}) AS is_late
        FROM {source} WHERE timestamp_ms < {rules.until_ms}""")
    by_user = f"*, {part_sql('user_id', rules.n_parts)} AS user_part"
    write_parts(
        connection, f"SELECT {by_user} FROM lake_engagements",
        parts.folder / "engagements", "user_part", rules.n_parts, prefix,
    )  # fmt: skip
    columns = "item_id, event_ms, received_ms, sequence, is_imported, is_negative, is_late"
    by_item = f"{columns}, {part_sql('item_id', rules.n_parts)} AS item_part"
    write_parts(
        connection, f"SELECT {by_item} FROM lake_engagements",
        parts.folder / "item_events", "item_part", rules.n_parts, prefix,
    )  # fmt: skip


def stage_impressions(
    connection: duckdb.DuckDBPyConnection,
    parts: StagedParts,
    source: str,
    rules: ExampleRules,
    prefix: str = "rows",
) -> None:
    """Cut impressions into parts by user."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW lake_impressions AS
        SELECT event_id AS moment_id, request_id, user_id, timestamp_ms, bundle_id, variant, slate,
            unshown, dropped, n_dropped, history_version, history_items, context,
            coalesce(sequence, 0) AS sequence,
            {is_scored_sql("degraded")} AS is_scored
        FROM {source} WHERE timestamp_ms < {rules.until_ms}""")
    by_user = f"*, {part_sql('user_id', rules.n_parts)} AS user_part"
    write_parts(
        connection, f"SELECT {by_user} FROM lake_impressions",
        parts.folder / "impressions", "user_part", rules.n_parts, prefix,
    )  # fmt: skip


def stage_pools(
    connection: duckdb.DuckDBPyConnection, parts: StagedParts, catalogue: str, rules: ExampleRules
) -> None:
    """Write what random items are drawn from: both pools in the order in which they became known.

    Numbered in that order, the first n places of a pool are what was known when it had n, so a
    draw as of any moment is a number below its size then.

    Args:
        catalogue: table or view of the lake's catalogue rows, which may be empty.
    """
    visible = f"""(
        SELECT false AS is_imported, item_id, greatest(event_ms + 1, received_ms) AS known_ms,
            event_id FROM ({parts.engagements()}) WHERE NOT is_negative
        UNION ALL
        SELECT true, item_id, event_ms + 1, event_id FROM ({parts.engagements()})
            WHERE is_imported AND NOT is_negative)"""
    _known_items(connection, visible, catalogue, rules.until_ms)
    pools = {"items": ("known_items", "item_id"), "engagements": (visible, "event_id")}
    for name, (source, tie) in pools.items():
        numbered = f"row_number() OVER (PARTITION BY is_imported ORDER BY known_ms, {tie}) - 1"
        query = f"SELECT is_imported, item_id, {numbered} AS place FROM {source}"
        _copy(connection, query, parts.pool(name))
    _copy(connection, _pool_sizes(visible), parts.pool("sizes"))
    _copy(
        connection,
        "SELECT item_id, timestamp_ms AS changed_ms, coalesce(deleted, false) AS is_deleted,"
        f" sequence FROM {catalogue} WHERE timestamp_ms < {rules.until_ms}",
        parts.pool("changes"),
    )


def _known_items(
    connection: duckdb.DuckDBPyConnection, visible: str, catalogue: str, until_ms: int
) -> None:
    """Table `known_items`: when each item first became known, by an engagement or an entry."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW put_items AS
        SELECT item_id, timestamp_ms, created_ms FROM {catalogue}
        WHERE NOT deleted AND timestamp_ms < {int(until_ms)};
        CREATE OR REPLACE TEMP TABLE known_items AS
        SELECT is_imported, item_id, min(known_ms) AS known_ms FROM (
            SELECT is_imported, item_id, known_ms FROM {visible}
            UNION ALL SELECT false, item_id, timestamp_ms FROM put_items
            UNION ALL SELECT true, item_id, created_ms FROM put_items WHERE created_ms IS NOT NULL)
        WHERE known_ms < {int(until_ms)} GROUP BY is_imported, item_id""")


def _pool_sizes(visible: str) -> str:
    """SQL of how large both pools were when a minute began, for minutes after a change."""
    minute = f"(known_ms + {POOL_STEP_MS - 1}) // {POOL_STEP_MS} * {POOL_STEP_MS}"
    return f"""
        SELECT is_imported, sized_ms, (sum(n_items) OVER so_far)::BIGINT AS n_items,
            (sum(n_engagements) OVER so_far)::BIGINT AS n_engagements
        FROM (
            SELECT is_imported, {minute} AS sized_ms, sum(is_item) AS n_items,
                sum(1 - is_item) AS n_engagements
            FROM (SELECT is_imported, known_ms, 1 AS is_item FROM known_items
                UNION ALL SELECT is_imported, known_ms, 0 FROM {visible})
            GROUP BY is_imported, sized_ms)
        WINDOW so_far AS (PARTITION BY is_imported ORDER BY sized_ms
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"""


def part_sql(column: str, n_parts: int) -> str:
    """SQL of the part an id belongs to; other digits of the hash than `user_bucket`'s."""
    return f"((md5_number_upper({column}) >> 8) % {n_parts})::INTEGER"


def write_parts(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    folder: Path,
    part: str,
    n_parts: int,
    prefix: str,
) -> None:
    """Write rows into files by their column `part`; every part gets one, if an empty one.

    Files of the same prefix, which an earlier attempt may have left, are replaced.
    """
    remove_files(folder, prefix)
    connection.execute(f"SET partitioned_write_flush_threshold = {ROWS_PER_FLUSH}")
    folder.mkdir(parents=True, exist_ok=True)
    connection.execute(
        f"COPY ({query}) TO {sql_text(folder)} (FORMAT parquet, PARTITION_BY ({part}),"
        f" OVERWRITE_OR_IGNORE, FILENAME_PATTERN '{prefix}-{{i}}')"
    )
    for number in range(n_parts):
        own = folder / f"{part}={number}"
        own.mkdir(exist_ok=True)
        if not any(own.glob("*.parquet")):
            empty = f"SELECT * EXCLUDE ({part}) FROM ({query}) LIMIT 0"
            _copy(connection, empty, own / f"{prefix}-empty.parquet")


def remove_files(folder: Path, prefix: str) -> None:
    """Remove what a lost attempt at the same part may have written."""
    for file in folder.rglob(f"{prefix}-*.parquet"):
        file.unlink(missing_ok=True)


def _copy(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection.execute(f"COPY ({query}) TO {sql_text(path)} (FORMAT parquet)")


def _read(folder: Path, column: str, part: int | None) -> str:
    pattern = folder / f"{column}={'*' if part is None else part}" / "*.parquet"
    return f"SELECT * FROM read_parquet({sql_text(pattern)}, hive_partitioning = false)"


def _file(path: Path) -> str:
    return f"read_parquet({sql_text(path)})"
