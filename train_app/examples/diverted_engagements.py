"""Engagements that one side of an experiment may not learn from: what other sides' slates brought.

A side learns from its own slates and from all that the experiment did not answer. Credit is given
as `train_app.following.evidence.attribution` gives it.
"""

from __future__ import annotations

import duckdb

from recsys.errors import ConfigError
from train_app.examples.join_database import sql_text
from train_app.following.evidence.attribution import CLOCK_ERROR_MS


def stage_diverted(connection: duckdb.DuckDBPyConnection, side: str, window_ms: int) -> int:
    """Make table `diverted`, the `event_id` of every engagement to leave out; how many there are.

    Args:
        connection: has the views `all_engagements` and `all_impressions`.
        side: `EXPERIMENT_ID:ARM`, the side that learns.
        window_ms: an engagement is credited to slates shown so long before it at most.

    Raises:
        ConfigError: no slate was answered under that side.
    """
    _require_known(connection, side)
    prefix = sql_text(_prefix(side))
    connection.execute(f"""
        CREATE TEMP TABLE sided AS
        SELECT event_id AS slate_id, request_id, user_id, timestamp_ms AS shown_ms,
            list_transform(slate, lambda one: one.item_id) AS items,
            {is_diverted(side)} AS is_diverted
        FROM all_impressions SEMI JOIN (SELECT DISTINCT user_id FROM all_impressions
            WHERE len(list_filter(experiments, lambda one: starts_with(one, {prefix}))) > 0)
            USING (user_id)
        QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY sequence) = 1;
        CREATE TEMP TABLE places AS
        SELECT slate_id, user_id, request_id, shown_ms, is_diverted, unnest(items) AS item_id
            FROM sided;
        CREATE TEMP TABLE acts AS
        SELECT DISTINCT event_id, user_id, item_id, request_id, timestamp_ms AS event_ms
            FROM all_engagements SEMI JOIN sided USING (user_id) WHERE origin <> 'import'""")
    connection.execute(f"""
        CREATE TEMP TABLE named AS
        SELECT event_id, arg_max(is_diverted, (shown_ms, slate_id)) AS is_diverted
        FROM acts JOIN places USING (user_id, request_id, item_id)
        WHERE event_ms - shown_ms BETWEEN {-CLOCK_ERROR_MS} AND {window_ms} GROUP BY event_id;
        CREATE TABLE diverted AS
        SELECT event_id FROM named WHERE is_diverted
        UNION SELECT a.event_id FROM (SELECT * FROM acts ANTI JOIN named USING (event_id)) a
        ASOF JOIN (SELECT user_id, item_id, shown_ms,
                arg_max(is_diverted, slate_id) AS is_diverted FROM places GROUP BY ALL) p
        ON a.user_id = p.user_id AND a.item_id = p.item_id AND a.event_ms >= p.shown_ms
        WHERE p.is_diverted AND a.event_ms - p.shown_ms <= {window_ms}""")
    return int(connection.execute("SELECT count(*) FROM diverted").fetchall()[0][0])


def is_diverted(side: str) -> str:
    """SQL over the column `experiments`: whether another side of the experiment answered."""
    return (
        "len(list_filter(coalesce(experiments, []), lambda one: "
        f"starts_with(one, {sql_text(_prefix(side))}) AND one <> {sql_text(side)})) > 0"
    )


def _prefix(side: str) -> str:
    return side.rpartition(":")[0] + ":"


def _require_known(connection: duckdb.DuckDBPyConnection, side: str) -> None:
    found = connection.execute(
        "SELECT DISTINCT unnest(experiments) AS side FROM all_impressions ORDER BY side"
    ).fetchall()
    sides = [row[0] for row in found]
    if side not in sides:
        known = ", ".join(sides) if sides else "none, as no experiment has answered anybody yet"
        raise ConfigError(
            f"train.diverted_to is '{side}', expected EXPERIMENT_ID:ARM of slates in the lake;"
            f" there are {known}"
        )
