"""One part of a set of examples: all moments of some users, then all features of some items.

Parts share nothing but files, so they are made one after the other on one machine or at once on
many, with the same result.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb

from train_app.examples.as_of_features import (
    create_item_timeline,
    create_user_timeline,
    create_visible,
    with_counts,
    with_histories,
)
from train_app.examples.as_of_join import as_of_join
from train_app.examples.example_inputs import (
    ROWS_PER_FLUSH,
    StagedParts,
    part_sql,
    remove_files,
    write_parts,
)
from train_app.examples.example_rules import ExampleRules
from train_app.examples.example_schema import (
    AS_OF_FEATURES,
    EXAMPLES,
    PARTITION_COLUMNS,
    user_bucket_sql,
)
from train_app.examples.join_database import sql_text
from train_app.examples.labelled_impressions import label_moments
from train_app.examples.negatives_of_path import add_dropped, add_random, add_unshown, log_q_sql


def make_user_part(
    connection: duckdb.DuckDBPyConnection, parts: StagedParts, part: int, rules: ExampleRules
) -> Counter[str]:
    """Write the drafts of a part of the users, by item; counts of what was left out, and why."""
    repeated = _attach_once(connection, "engagements", parts.engagements(part), "event_id")
    repeated += _attach_once(connection, "impressions", parts.impressions(part), "moment_id")
    for pool in ("items", "engagements", "sizes"):
        file = sql_text(parts.pool(pool))
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW pool_{pool} AS SELECT * FROM read_parquet({file})"
        )
    counts = label_moments(connection, rules)
    counts["events_repeated"] = repeated
    counts.update(add_unshown(connection, rules))
    counts.update(add_dropped(connection, rules))
    if rules.n_random:
        counts.update(add_random(connection, rules))
    create_visible(connection, "engagements")
    create_user_timeline(connection, rules.history_limit)
    _describe_moments(connection, rules)
    write_parts(
        connection, _drafts(rules), parts.folder / "drafts", "item_part", rules.n_parts,
        f"users-{part}",
    )  # fmt: skip
    return counts


def _attach_once(
    connection: duckdb.DuckDBPyConnection, view: str, query: str, event_id: str
) -> int:
    """View of the events, each once: the lake tells repeats within a window only; how many."""
    counted = f"SELECT count(*) - count(DISTINCT {event_id}) FROM ({query})"
    n_repeated = int(connection.sql(counted).fetchall()[0][0])
    if n_repeated:
        query += f" QUALIFY row_number() OVER (PARTITION BY {event_id} ORDER BY sequence) = 1"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {query}")
    return n_repeated


def _describe_moments(connection: duckdb.DuckDBPyConnection, rules: ExampleRules) -> None:
    """Table `described`: the moments with user features, and a history where none was logged."""
    connection.execute("""
        CREATE OR REPLACE TEMP VIEW slim_moments AS
        SELECT moment_id, user_id, is_imported, timestamp_ms FROM moments;
        CREATE OR REPLACE TEMP VIEW unlogged_moments AS
        SELECT moment_id, user_id, is_imported, timestamp_ms FROM moments
        WHERE request_id IS NULL""")
    with_counts(connection, "user", "slim_moments").create_view("counted_moments", replace=True)
    with_histories(connection, "unlogged_moments", rules.history_length).create_view(
        "historied_moments", replace=True
    )
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE described AS
        SELECT m.* EXCLUDE (history_items), c.* EXCLUDE (moment_id, user_id, is_imported,
                timestamp_ms),
            m.request_id IS NOT NULL AS history_is_logged,
            coalesce(m.history_items, h.as_of_items, []) AS history_items
        FROM moments m JOIN counted_moments c USING (moment_id)
        LEFT JOIN (SELECT moment_id, as_of_items FROM historied_moments) h USING (moment_id)""")


def _drafts(rules: ExampleRules) -> str:
    example_id = "md5(concat(moment_id, '/', c.stage, '/', c.item_id))"
    return f"""
        SELECT {example_id} AS example_id, c.* REPLACE (coalesce(c.labels, []) AS labels),
            d.* EXCLUDE (moment_id), {part_sql("c.item_id", rules.n_parts)} AS item_part
        FROM candidates c JOIN described d USING (moment_id)"""


def make_item_part(
    connection: duckdb.DuckDBPyConnection,
    parts: StagedParts,
    part: int,
    rules: ExampleRules,
    out: Path,
) -> Counter[str]:
    """Complete the drafts of a part of the items and write them as examples under `out`."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW drafts AS {parts.drafts(part)};
        CREATE OR REPLACE TEMP VIEW item_events AS {parts.item_events(part)};
        CREATE OR REPLACE TEMP VIEW item_moments AS
        SELECT example_id, item_id, is_imported, timestamp_ms FROM drafts""")
    create_visible(connection, "item_events")
    create_item_timeline(connection)
    with_counts(connection, "item", "item_moments").create_view("item_counted", replace=True)
    counts = _judge_draws(connection, parts)
    columns = ", ".join(f"{sql} AS {name}" for name, sql in _columns(rules).items())
    remove_files(out, f"part-{part}")
    connection.execute(f"SET partitioned_write_flush_threshold = {ROWS_PER_FLUSH}")
    connection.execute(f"""
        COPY (SELECT {columns}
            FROM drafts d JOIN item_counted i USING (example_id)
            LEFT JOIN draws w USING (example_id)
            WHERE d.stage <> 'random' OR NOT w.is_deleted)
        TO {sql_text(out)} (FORMAT parquet, COMPRESSION zstd,
            PARTITION_BY ({", ".join(PARTITION_COLUMNS)}), OVERWRITE_OR_IGNORE,
            FILENAME_PATTERN 'part-{part}-{{i}}')""")
    return counts


def _judge_draws(connection: duckdb.DuckDBPyConnection, parts: StagedParts) -> Counter[str]:
    """Table `draws`: of random examples, the log probability and whether the item was deleted."""
    changes = f"(SELECT * FROM read_parquet({sql_text(parts.pool('changes'))}))"
    connection.execute("""
        CREATE OR REPLACE TEMP VIEW random_drafts AS
        SELECT example_id, item_id, is_imported, timestamp_ms, drawn_ms, n_items, n_engagements
        FROM drafts WHERE stage = 'random'""")
    counted = as_of_join(
        connection,
        "random_drafts",
        "item_timeline",
        by=("is_imported", "item_id"),
        left_time="drawn_ms",
        right_time="from_ms",
        known_time=None,  # a count stands from when its newest engagement was visible
        take=("item_total",),
        tie_order=(),
        may_equal=True,
    )
    counted.create_view("counted_draws", replace=True)
    judged = as_of_join(
        connection,
        "counted_draws",
        changes,
        by=("item_id",),
        left_time="timestamp_ms",
        right_time="changed_ms",
        known_time=None,  # our own clock stamps a change as it is accepted
        take=("is_deleted",),
        tie_order=("sequence",),
    )
    judged.create_view("judged_draws", replace=True)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE draws AS
        SELECT example_id, {log_q_sql("item_total")} AS log_q,
            NOT is_imported AND coalesce(is_deleted, false) AS is_deleted
        FROM judged_draws""")
    n_deleted = connection.sql("SELECT count(*) FROM draws WHERE is_deleted").fetchall()[0][0]
    return Counter({"random_deleted": n_deleted})


def _columns(rules: ExampleRules) -> dict[str, str]:
    """SQL of every column of an example, in the order of the schema."""
    made = {
        "log_q": "coalesce(d.log_q, w.log_q)",
        "item_event_ms": "i.item_event_ms",
        "item_known_ms": "i.item_known_ms",
        "known_ms": "greatest(d.user_known_ms, i.item_known_ms)",
        "event_date": "CAST(epoch_ms(d.timestamp_ms) AS DATE)",
        "user_bucket": user_bucket_sql("d.user_id", rules.n_user_buckets),
    }
    made |= {name: f"coalesce(d.{name}, 0)" for name in AS_OF_FEATURES["user"]}
    made |= {name: f"coalesce(i.{name}, 0)" for name in AS_OF_FEATURES["item"]}
    return {name: made.get(name, f"d.{name}") for name in EXAMPLES.names}
