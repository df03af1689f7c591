"""What a user could have seen and did not: not shown, not scored, and drawn at random with log-Q.

Works on one part of the users, after `labelled_impressions`. What was not shown and what was not
scored is as serving logged it; draws made here depend on the seed and the moment alone.
"""

from __future__ import annotations

from collections import Counter

import duckdb

from train_app.examples.as_of_join import as_of_join
from train_app.examples.example_rules import UNIFORM_SHARE, ExampleRules
from train_app.examples.join_database import sql_texts

POOL_STEP_MS = 60_000
"""Draws see catalogue and popularity as they were known when the moment's minute began."""
UNSCORED_STAGES = ("scorer", "encode")
"""With one of these away a request is answered in retrieval order: what stands as score is none."""


def is_scored_sql(degraded: str) -> str:
    """SQL of whether the items of an impression had been scored, from its reasons."""
    away = " OR ".join(f"starts_with(reason, '{stage}:')" for stage in UNSCORED_STAGES)
    return f"(NOT coalesce(list_bool_or(list_transform({degraded}, lambda reason: {away})), false))"


def add_unshown(connection: duckdb.DuckDBPyConnection, rules: ExampleRules) -> Counter[str]:
    """Add to `candidates` what was logged as scored and not shown.

    Left out, and counted, is what the user engaged with in the label window all the same: it is
    no negative, and its engagement labels the example it belongs to.
    """
    n_engaged = _judge_logged(connection, "unshown", rules.label_window_ms)
    connection.execute("""
        INSERT INTO candidates BY NAME
        SELECT moment_id, item_id, CASE WHEN is_scored THEN 'scored' ELSE 'retrieved' END AS stage,
            logged.source AS source, CASE WHEN is_scored THEN logged.score END AS score,
            CASE WHEN is_scored THEN logged.score_rank END AS score_rank,
            logged.retrieval_score AS retrieval_score, logged.retrieval_rank AS retrieval_rank
        FROM unshown_items WHERE NOT is_engaged""")
    return Counter({"unshown_engaged": n_engaged})


def add_dropped(connection: duckdb.DuckDBPyConnection, rules: ExampleRules) -> Counter[str]:
    """Add to `candidates` what was logged as retrieved and not scored; after `add_unshown`.

    `log_q` is the log of the chance that an item is among those logged: they were drawn uniformly
    from `n_dropped`. What the user engaged with is left out like the unshown.
    """
    n_engaged = _judge_logged(connection, "dropped", rules.label_window_ms)
    connection.execute("""
        INSERT INTO candidates BY NAME
        SELECT moment_id, item_id, 'retrieved' AS stage, logged.source AS source,
            logged.retrieval_score AS retrieval_score, logged.retrieval_rank AS retrieval_rank,
            ln(least(1.0, n_logged / nullif(n_dropped, 0)::DOUBLE)) AS log_q
        FROM dropped_items d ANTI JOIN candidates c USING (moment_id, item_id)
        WHERE NOT is_engaged""")
    return Counter({"dropped_engaged": n_engaged})


def _judge_logged(connection: duckdb.DuckDBPyConnection, column: str, window_ms: int) -> int:
    """Table `<column>_items`: a list of the impressions one by one, and how many were engaged with.

    `is_engaged` says that the user engaged with the item in the label window after all.
    """
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE {column}_items AS
        SELECT i.*, EXISTS (FROM engagements e WHERE e.user_id = i.user_id
                AND e.item_id = i.item_id AND e.event_ms >= i.timestamp_ms
                AND e.event_ms < i.timestamp_ms + {int(window_ms)}) AS is_engaged
        FROM (
            SELECT moment_id, user_id, timestamp_ms, is_scored, n_dropped, n_logged,
                logged.item_id AS item_id, logged
            FROM (SELECT moment_id, user_id, timestamp_ms, is_scored, n_dropped,
                    len({column}) AS n_logged, unnest({column}) AS logged
                FROM impressions SEMI JOIN moments USING (moment_id))) i""")
    counted = f"SELECT count(*) FROM {column}_items WHERE is_engaged"
    return int(connection.sql(counted).fetchall()[0][0])


def add_random(connection: duckdb.DuckDBPyConnection, rules: ExampleRules) -> Counter[str]:
    """Add to `candidates` items drawn for every moment that ends in a positive.

    A draw takes with equal chance an item of the catalogue, or that of a past engagement, which
    is popularity. What the user engages with before the label window ends, and what the moment
    has already, is dropped and not drawn again, so that `log_q` stays the chance of one draw.
    """
    negatives = sql_texts(rules.negative_kinds)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE drawing AS
        SELECT moment_id, user_id, is_imported, timestamp_ms,
            timestamp_ms - timestamp_ms % {POOL_STEP_MS} AS drawn_ms
        FROM moments SEMI JOIN (SELECT moment_id FROM candidates WHERE len(list_filter(labels,
            lambda label: NOT list_contains({negatives}, label.kind))) > 0) USING (moment_id)""")
    sized = as_of_join(
        connection,
        "drawing",
        "pool_sizes",
        by=("is_imported",),
        left_time="drawn_ms",
        right_time="sized_ms",
        known_time=None,  # a size counts what was known by `sized_ms`
        take=("n_items", "n_engagements"),
        may_equal=True,
    )
    sized.create_view("sized_drawing", replace=True)
    connection.execute(_draws(rules.seed, rules.n_random))
    connection.execute(f"""
        INSERT INTO candidates BY NAME
        SELECT moment_id, item_id, 'random' AS stage, n_drawn, drawn_ms, n_items, n_engagements
        FROM drawn d ANTI JOIN candidates c USING (moment_id, item_id)
        WHERE NOT EXISTS (FROM engagements e WHERE e.user_id = d.user_id
            AND e.item_id = d.item_id AND e.event_ms < d.timestamp_ms + {rules.label_window_ms})""")
    n_drawn, n_kept = connection.sql("""
        SELECT (SELECT count(*) FROM drawn),
            (SELECT count(*) FROM candidates WHERE stage = 'random')""").fetchall()[0]
    return Counter({"random_not_negative": n_drawn - n_kept})


def log_q_sql(item_total: str) -> str:
    """SQL of a draw's log probability.

    Args:
        item_total: the item's engagements among the `n_engagements` that were drawn from.
    """
    share = f"CASE WHEN n_engagements = 0 THEN 1.0 ELSE {UNIFORM_SHARE} END"
    popular = f"coalesce({item_total}, 0) / nullif(n_engagements, 0)::DOUBLE"
    return f"ln({share} / n_items + (1 - {share}) * coalesce({popular}, 0.0))"


def _draws(seed: int, n_random: int) -> str:
    """SQL of table `drawn`: each moment's items, once each, with how often they were drawn."""
    salt = f"concat({int(seed)}, '/', moment_id, '/', draw)"
    uniform = f"(n_engagements = 0 OR {_unit_sql(salt)} < {UNIFORM_SHARE})"
    return f"""
        CREATE OR REPLACE TEMP TABLE draws AS
        SELECT moment_id, is_imported, {uniform} AS is_uniform,
            (md5_number_upper({salt}) % (CASE WHEN {uniform} THEN n_items ELSE n_engagements END))
                ::BIGINT AS place
        FROM sized_drawing, range({int(n_random)}) draws(draw) WHERE n_items > 0;
        CREATE OR REPLACE TEMP TABLE drawn AS
        SELECT moment_id, item_id, any_value(user_id) AS user_id, count(*)::INTEGER AS n_drawn,
            any_value(timestamp_ms) AS timestamp_ms, any_value(drawn_ms) AS drawn_ms,
            any_value(n_items) AS n_items, any_value(n_engagements) AS n_engagements
        FROM (
            SELECT moment_id, item_id FROM draws JOIN pool_items USING (is_imported, place)
                WHERE is_uniform
            UNION ALL
            SELECT moment_id, item_id FROM draws JOIN pool_engagements USING (is_imported, place)
                WHERE NOT is_uniform)
        JOIN sized_drawing USING (moment_id) GROUP BY moment_id, item_id"""


def _unit_sql(text: str) -> str:
    """SQL of a number in [0, 1) made of a text, independent of `md5_number_upper` of it."""
    return f"((md5_number_lower({text}) >> 11) / 9007199254740992.0)"
