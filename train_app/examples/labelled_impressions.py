"""Which engagement belongs to which impression, and the labelled moments of one part of the users.

Reads `engagements` and `impressions` of the part as `example_inputs` stages them; knows no lake.
An engagement labels one moment at most, never one that is later than itself.
"""

from __future__ import annotations

from collections import Counter

import duckdb

from train_app.examples.as_of_join import as_of_join
from train_app.examples.example_rules import ExampleRules

BY_REQUEST, BY_USER_ITEM = "request", "user_item"
NOT_IN_SLATE = "not_in_slate"
BEFORE_IMPRESSION = "before_impression"
LONG_AGO = "request_long_ago"
NO_IMPRESSION = "no_impression"
ORGANIC_FATES = (NOT_IN_SLATE, LONG_AGO, NO_IMPRESSION)
"""Engagements that no slate is credited with: the user came to the item on another way."""

_LABELS = """list({'kind': kind, 'after_ms': after_ms, 'value': value, 'matched_by': matched_by}
    ORDER BY after_ms, kind)"""

_CANDIDATES = """
    CREATE OR REPLACE TEMP TABLE candidates (moment_id VARCHAR, item_id VARCHAR, stage VARCHAR,
        position INTEGER, propensity DOUBLE, source VARCHAR, score DOUBLE, score_rank INTEGER,
        retrieval_score DOUBLE, retrieval_rank INTEGER,
        labels STRUCT(kind VARCHAR, after_ms BIGINT, value DOUBLE, matched_by VARCHAR)[],
        n_drawn INTEGER, drawn_ms BIGINT, n_items BIGINT, n_engagements BIGINT, log_q DOUBLE)"""


def label_moments(connection: duckdb.DuckDBPyConnection, rules: ExampleRules) -> Counter[str]:
    """Make the tables `moments` and `candidates` of one part; how many of what was left out.

    `moments` has one row per impression and per organic moment with a closed label window,
    `candidates` one per item shown at such a moment or engaged with at an organic one, with its
    labels; `fates` says of every engagement what became of it.
    """
    _slots(connection)
    _named(connection, rules.label_window_ms)
    _unnamed(connection, rules.label_window_ms)
    counts = _fate_counts(connection)
    counts.update(_organic(connection, rules))
    counts.update(_moments(connection, rules))
    _candidates(connection)
    return counts


def _slots(connection: duckdb.DuckDBPyConnection) -> None:
    """One row per item shown, of every impression, whether its window is closed or not."""
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE slots AS
        SELECT moment_id, request_id, user_id, timestamp_ms AS shown_ms, slot.item_id AS item_id
        FROM (SELECT moment_id, request_id, user_id, timestamp_ms, unnest(slate) AS slot
            FROM impressions)""")


def _named(connection: duckdb.DuckDBPyConnection, window_ms: int) -> None:
    """The fates of engagements that name a request of their user that was logged."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE fates AS
        SELECT *, CASE WHEN n_slots = 0 THEN '{NOT_IN_SLATE}'
            WHEN moment_id IS NULL THEN '{BEFORE_IMPRESSION}'
            WHEN event_ms >= shown_ms + {window_ms} THEN '{LONG_AGO}'
            ELSE '{BY_REQUEST}' END AS fate
        FROM (
            SELECT e.event_id, any_value(e.event_ms) AS event_ms, count(s.moment_id) AS n_slots,
                arg_max(s.moment_id, (s.shown_ms, s.moment_id)) FILTER (s.shown_ms <= e.event_ms)
                    AS moment_id,
                max(s.shown_ms) FILTER (s.shown_ms <= e.event_ms) AS shown_ms
            FROM engagements e
            JOIN (SELECT DISTINCT user_id, request_id FROM impressions) USING (user_id, request_id)
            LEFT JOIN slots s USING (user_id, request_id, item_id)
            GROUP BY e.event_id)""")


def _unnamed(connection: duckdb.DuckDBPyConnection, window_ms: int) -> None:
    """Add the fates of all others: the newest impression of the item before them, or none."""
    connection.execute("""
        CREATE OR REPLACE TEMP VIEW unnamed AS
        SELECT event_id, user_id, item_id, event_ms FROM engagements ANTI JOIN fates
            USING (event_id)""")
    newest = as_of_join(
        connection,
        "unnamed",
        "slots",
        by=("user_id", "item_id"),
        left_time="event_ms",
        right_time="shown_ms",
        known_time=None,  # what was shown was known as it was shown
        take=("moment_id", "shown_ms"),
        tie_order=("moment_id",),
        may_equal=True,  # an engagement may come in the millisecond of its impression
    )
    newest.create_view("newest_slots", replace=True)
    connection.execute(f"""
        INSERT INTO fates BY NAME
        SELECT event_id, event_ms, moment_id, shown_ms,
            CASE WHEN event_ms < shown_ms + {window_ms} THEN '{BY_USER_ITEM}'
                ELSE '{NO_IMPRESSION}' END AS fate
        FROM newest_slots""")


def _fate_counts(connection: duckdb.DuckDBPyConnection) -> Counter[str]:
    rows = connection.sql("SELECT fate, count(*) FROM fates GROUP BY fate").fetchall()
    return Counter({f"engagements_{fate}": count for fate, count in rows})


def _organic(connection: duckdb.DuckDBPyConnection, rules: ExampleRules) -> Counter[str]:
    """Table `organic`: every such engagement with the moment it is counted to.

    The first one of a user and item begins a moment, and those within the label window label it;
    what follows without a pause of a whole window is the same visit and labels nothing.
    """
    fates = ", ".join(f"'{fate}'" for fate in ORGANIC_FATES)
    window_ms = rules.label_window_ms
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE organic AS
        WITH alone AS (
            SELECT e.* FROM engagements e SEMI JOIN
                (SELECT event_id FROM fates WHERE fate IN ({fates})) USING (event_id)
            WHERE {rules.with_organic}),
        visits AS (
            SELECT *, count(*) FILTER (is_first) OVER in_order AS visit FROM (
                SELECT *, coalesce(event_ms - lag(event_ms) OVER in_order >= {window_ms}, true)
                    AS is_first
                FROM alone WINDOW in_order AS (PARTITION BY user_id, item_id, is_imported
                    ORDER BY event_ms, sequence, event_id))
            WINDOW in_order AS (PARTITION BY user_id, item_id, is_imported
                ORDER BY event_ms, sequence, event_id))
        SELECT *, first_value(event_id) OVER visit_order AS moment_id,
            first_value(event_ms) OVER visit_order AS timestamp_ms
        FROM visits WINDOW visit_order AS (PARTITION BY user_id, item_id, is_imported, visit
            ORDER BY event_ms, sequence, event_id)""")
    n_after = connection.sql(
        f"SELECT count(*) FROM organic WHERE event_ms >= timestamp_ms + {window_ms}"
    ).fetchall()[0][0]
    return Counter({"engagements_after_their_visit": n_after})


def _moments(connection: duckdb.DuckDBPyConnection, rules: ExampleRules) -> Counter[str]:
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE moments AS
        SELECT *, timestamp_ms + {rules.label_window_ms} AS label_end_ms FROM (
            SELECT moment_id, request_id, user_id, timestamp_ms, false AS is_imported, bundle_id,
                variant, history_version, history_items, context
            FROM impressions
            UNION ALL BY NAME
            SELECT moment_id, NULL AS request_id, user_id, timestamp_ms, is_imported
            FROM organic WHERE event_id = moment_id) m
        WHERE {rules.closed_sql("m")}""")
    n_open = """SELECT
        (SELECT count(*) FROM impressions ANTI JOIN moments USING (moment_id)),
        (SELECT count(*) FROM organic WHERE event_id = moment_id)
            - (SELECT count(*) FROM moments SEMI JOIN organic USING (moment_id))"""
    impressions, organic = connection.sql(n_open).fetchall()[0]
    return Counter({"impressions_window_open": impressions, "organic_window_open": organic})


def _candidates(connection: duckdb.DuckDBPyConnection) -> None:
    """Shown items with their labels, and organic ones, which are their own labels."""
    connection.execute(f"""{_CANDIDATES};
        CREATE OR REPLACE TEMP TABLE labels AS
        SELECT moment_id, item_id, {_LABELS} AS labels FROM (
            SELECT moment_id, item_id, kind, min(event_ms - began_ms) AS after_ms,
                arg_min(value, (event_ms, sequence, event_id)) FILTER (value IS NOT NULL) AS value,
                arg_min(matched_by, (event_ms, sequence, event_id)) AS matched_by
            FROM (
                SELECT f.moment_id, e.item_id, e.kind, e.event_ms, f.shown_ms AS began_ms, e.value,
                    e.sequence, e.event_id, f.fate AS matched_by
                FROM engagements e JOIN fates f USING (event_id)
                WHERE f.fate IN ('{BY_REQUEST}', '{BY_USER_ITEM}')
                UNION ALL
                SELECT o.moment_id, o.item_id, o.kind, o.event_ms, o.timestamp_ms, o.value,
                    o.sequence, o.event_id, 'organic'
                FROM organic o JOIN moments m USING (moment_id)
                WHERE o.event_ms < m.label_end_ms)
            GROUP BY moment_id, item_id, kind)
        GROUP BY moment_id, item_id;
        INSERT INTO candidates BY NAME
        SELECT moment_id, item_id, 'shown' AS stage, slot.position AS position,
            slot.propensity AS propensity, slot.source AS source,
            CASE WHEN is_scored THEN slot.score END AS score,
            slot.retrieval_score AS retrieval_score, slot.retrieval_rank AS retrieval_rank, labels
        FROM (
            SELECT moment_id, slot.item_id AS item_id, slot, is_scored FROM (
                SELECT moment_id, unnest(slate) AS slot, is_scored FROM impressions)
            SEMI JOIN moments USING (moment_id))
        LEFT JOIN labels USING (moment_id, item_id);
        INSERT INTO candidates BY NAME
        SELECT o.moment_id, o.item_id, 'organic' AS stage, labels
        FROM organic o JOIN labels USING (moment_id, item_id) SEMI JOIN moments USING (moment_id)
        WHERE o.event_id = o.moment_id""")
