"""Slates of an experiment's users with what they are credited with, as tables of a DuckDB.

Credit is given as evidence gives it (`train_app.following.evidence.attribution`): to the slate of
the request that an engagement names, else to the newest one before it that showed the item. Knows
the lake's columns; no statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from recsys.evidence.arm_sample import KindMeanings
from recsys.evidence.experiment_design import ExperimentDesign
from recsys.settings import Settings
from train_app.examples.join_database import sql_text, sql_texts
from train_app.following.evidence.attribution import CLOCK_ERROR_MS
from train_app.following.evidence.user_trail import SIGHT_KINDS

DAY_MS = 86_400_000
BEFORE_MS = 14 * DAY_MS
"""A user's past is read so far back, as the evidence of rollouts is."""
NO_ARM = ""


@dataclass(frozen=True, slots=True)
class CreditRules:
    """What the tables are made by."""

    experiment_id: str
    from_ms: int
    end_ms: int
    """Slates shown from then on are not of the experiment, or their window is open."""
    until_ms: int
    """Where the experiment ended, or the lake ends."""
    window_ms: int
    session_gap_ms: int
    kinds: KindMeanings


def credit_rules(design: ExperimentDesign, settings: Settings, newest_ms: int) -> CreditRules:
    """The rules for a lake whose newest live row is of that time."""
    until = newest_ms + 1 if design.until_ms is None else min(design.until_ms, newest_ms + 1)
    weights = dict(settings.train.scorer.utility_weights)
    return CreditRules(
        design.plan.experiment_id,
        design.from_ms,
        min(until, newest_ms - design.label_window_ms + 1),
        until,
        design.label_window_ms,
        settings.attribution.session_gap_s * 1000,
        KindMeanings(negative=settings.events.negative_kinds, weights=weights or None),
    )


def credit_slates(connection: duckdb.DuckDBPyConnection, rules: CreditRules) -> None:
    """Make `shown`, `credited` and `sessions` of the users who took part.

    `shown` has one row per slate: its arm (empty where it is of no side), whether it counts as
    during, and its sums; slates before the experiment count only what came before it.
    """
    _stage_shown(connection, rules)
    _stage_acts(connection, rules)
    _credit(connection, rules)
    _sum_credits(connection, rules)
    _stage_sessions(connection, rules)


def _stage_shown(connection: duckdb.DuckDBPyConnection, rules: CreditRules) -> None:
    """Slates of those with a slate of a side whose window is closed; each event once."""
    prefix = sql_text(f"{rules.experiment_id}:")
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW all_shown AS
        SELECT event_id AS slate_id, request_id, user_id, timestamp_ms AS shown_ms,
            list_transform(slate, lambda one: one.item_id) AS items, context, history_version,
            coverage, degraded, sequence, diversity, novelty,
            timestamp_ms >= {rules.from_ms} AS is_during,
            CASE WHEN timestamp_ms < {rules.from_ms} THEN '{NO_ARM}' ELSE coalesce(
                substr(list_filter(experiments, lambda one: starts_with(one, {prefix}))[1],
                    {len(rules.experiment_id) + 2}),
                CASE WHEN experiment = {sql_text(rules.experiment_id)} THEN variant END,
                '{NO_ARM}') END AS arm
        FROM all_impressions
        WHERE timestamp_ms >= {rules.from_ms - BEFORE_MS} AND timestamp_ms < {rules.until_ms}""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE participants AS
        SELECT user_id, count(DISTINCT arm) AS n_arms, min(arm) AS arm, min(shown_ms) AS first_ms,
            arg_min(history_version, (shown_ms, slate_id)) AS history_version,
            arg_min(context, (shown_ms, slate_id)) AS context
        FROM all_shown WHERE arm <> '{NO_ARM}' AND shown_ms < {rules.end_ms} GROUP BY user_id""")
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE shown AS
        SELECT * FROM all_shown SEMI JOIN participants USING (user_id)
        QUALIFY row_number() OVER (PARTITION BY slate_id ORDER BY sequence) = 1""")


def _stage_acts(connection: duckdb.DuckDBPyConnection, rules: CreditRules) -> None:
    first_ms = rules.from_ms - BEFORE_MS - CLOCK_ERROR_MS
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE acts AS
        SELECT event_id, user_id, item_id, request_id, kind, timestamp_ms AS event_ms,
            coalesce(value, 0) AS value
        FROM all_engagements SEMI JOIN participants USING (user_id)
        WHERE origin <> 'import' AND timestamp_ms >= {first_ms}
            AND timestamp_ms <= {rules.until_ms + rules.window_ms}
        QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY sequence) = 1""")


def _credit(connection: duckdb.DuckDBPyConnection, rules: CreditRules) -> None:
    """Table `credited`: every engagement that a slate is credited with."""
    window = rules.window_ms
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE slots AS
        SELECT slate_id, user_id, request_id, shown_ms, unnest(items) AS item_id FROM shown;
        CREATE OR REPLACE TEMP TABLE credited AS
        SELECT a.event_id, a.item_id, a.kind, a.value, a.event_ms,
            arg_max(s.slate_id, (s.shown_ms, s.slate_id)) AS slate_id
        FROM acts a JOIN slots s USING (user_id, request_id, item_id)
        WHERE a.event_ms - s.shown_ms BETWEEN {-CLOCK_ERROR_MS} AND {window}
        GROUP BY ALL;
        INSERT INTO credited BY NAME
        SELECT a.event_id, a.item_id, a.kind, a.value, a.event_ms, s.slate_id
        FROM (SELECT * FROM acts ANTI JOIN credited USING (event_id)) a
        ASOF JOIN (SELECT user_id, item_id, shown_ms, max(slate_id) AS slate_id FROM slots
            GROUP BY ALL) s
        ON a.user_id = s.user_id AND a.item_id = s.item_id AND a.event_ms >= s.shown_ms
        WHERE a.event_ms - s.shown_ms <= {window};
        DELETE FROM credited WHERE event_ms >= {rules.from_ms} AND slate_id IN (
            SELECT slate_id FROM shown WHERE NOT is_during)""")


def _sum_credits(connection: duckdb.DuckDBPyConnection, rules: CreditRules) -> None:
    """Table `slate_sums`: what each slate's credits come to, and `credits_by_kind`."""
    kinds = [row[0] for row in connection.execute("SELECT DISTINCT kind FROM credited").fetchall()]
    weights = "".join(
        f" WHEN {sql_text(kind)} THEN {float(rules.kinds.weight(kind))!r}" for kind in kinds
    )
    weight = f"CASE kind{weights} ELSE 0.0 END" if kinds else "0.0"
    unwanted = sql_texts((*rules.kinds.negative, *sorted(SIGHT_KINDS)))
    negative, sales = sql_texts(rules.kinds.negative), sql_texts(rules.kinds.conversions)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE slate_sums AS
        SELECT * FROM (
            SELECT slate_id, count(DISTINCT item_id)::DOUBLE AS touched_items,
                (count(DISTINCT item_id) FILTER (NOT list_contains({unwanted}, kind)))::DOUBLE
                    AS engaged_items
            FROM credited GROUP BY slate_id)
        JOIN (
            SELECT slate_id, sum({weight} * items)::DOUBLE AS utility,
                coalesce(sum(items) FILTER (list_contains({negative}, kind)), 0)::DOUBLE
                    AS dismissed_items,
                (count(*) FILTER (list_contains({sales}, kind)))::DOUBLE AS conversions,
                coalesce(sum(value) FILTER (list_contains({sales}, kind)), 0)::DOUBLE AS value
            FROM (SELECT slate_id, kind, count(DISTINCT item_id) AS items, sum(value) AS value
                FROM credited GROUP BY slate_id, kind)
            GROUP BY slate_id) USING (slate_id)""")


def _stage_sessions(connection: duckdb.DuckDBPyConnection, rules: CreditRules) -> None:
    """Table `sessions`: activity without a long pause; the first slate in it says its arm."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE sessions AS
        SELECT user_id, is_during, min(at_ms) AS start_ms,
            (max(at_ms) - min(at_ms)) / 1000.0 AS session_s,
            arg_min(arm, at_ms) FILTER (arm IS NOT NULL) AS arm,
            min(at_ms) FILTER (arm IS NOT NULL) AS first_shown_ms
        FROM (
            SELECT *, count(*) FILTER (is_first) OVER in_order AS session FROM (
                SELECT *, coalesce(at_ms - lag(at_ms) OVER in_order > {rules.session_gap_ms}, true)
                    AS is_first
                FROM (
                    SELECT user_id, shown_ms AS at_ms, arm, is_during FROM shown
                    UNION ALL BY NAME
                    SELECT user_id, event_ms AS at_ms, NULL AS arm,
                        event_ms >= {rules.from_ms} AS is_during FROM acts)
                WINDOW in_order AS (PARTITION BY user_id, is_during ORDER BY at_ms))
            WINDOW in_order AS (PARTITION BY user_id, is_during ORDER BY at_ms
                ROWS UNBOUNDED PRECEDING))
        GROUP BY user_id, is_during, session
        HAVING count(arm) > 0""")
