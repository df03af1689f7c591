"""Served slates with what users did with them, from the lake, as arrays.

Labels are those of training examples: an engagement within the label window of its impression.
Knows lake and labels; not what they are evaluated with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.off_policy.ratio_estimate import Values
from recsys.off_policy.reordering import SlateRecords
from recsys.settings import Settings
from train_app.checking.lake_views import LakeViews, open_lake_views
from train_app.examples.example_inputs import (
    StagedParts,
    stage_engagements,
    stage_impressions,
    stage_late_events,
)
from train_app.examples.example_rules import ExampleOptions, ExampleRules, rules_of
from train_app.examples.join_database import sql_text, sql_texts
from train_app.examples.labelled_impressions import label_moments
from train_app.following.evidence.user_trail import SIGHT_KINDS
from train_app.importing.staging import scratch_folder

_OPTIONS = ExampleOptions(n_random=0, with_organic=False)
_ROWS_PER_SLATE = 10
"""As a guess of the weight of an impression in the joins."""
_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class LoggedSlates:
    """Slates whose label window is closed, oldest first. R slates, K positions."""

    records: SlateRecords
    rewards: Values  # [R, K], worth of what the user did with each item
    event_ids: NDArray[np.str_]  # [R], of the impressions
    users: NDArray[np.int64]  # [R], a number per user
    bundles: NDArray[np.int64]  # [R], index into `bundle_ids`
    bundle_ids: tuple[str, ...]
    left_out: Mapping[str, int]
    """Impressions that are not among them, by reason."""

    def __len__(self) -> int:
        """Number of slates."""
        return len(self.users)

    def head(self, n_positions: int) -> LoggedSlates:
        """The same slates as far as their first positions."""
        own = self.records
        records = SlateRecords(
            own.propensities[:, :n_positions],
            own.scores[:, :n_positions],
            # Of what stands below the cut the best is the best that was not shown.
            np.maximum(own.best_unshown, own.scores[:, n_positions:].max(axis=1, initial=-np.inf)),
            np.minimum(own.lengths, n_positions),
        )
        return replace(self, records=records, rewards=self.rewards[:, :n_positions])

    def of(self, kept: NDArray[np.bool_]) -> LoggedSlates:
        """Some of the slates."""
        own = self.records
        records = SlateRecords(
            own.propensities[kept], own.scores[kept], own.best_unshown[kept], own.lengths[kept]
        )
        return replace(
            self,
            records=records,
            rewards=self.rewards[kept],
            event_ids=self.event_ids[kept],
            users=self.users[kept],
            bundles=self.bundles[kept],
        )


def read_logged_slates(
    settings: Settings,
    *,
    now_ms: int,
    since_ms: int = 0,
    until_ms: int | None = None,
    kind: str | None = None,
) -> LoggedSlates:
    """The slates of the log, with their rewards.

    Args:
        since_ms: only what was shown at or after this.
        until_ms: nothing of this moment or later is read.
        kind: the reward is 1 where there was an engagement of this kind; without one it is the
            sum of the kinds' weights in the utility (`train.scorer.utility_weights`; else 1, -1
            for a negative kind, and 0 for a view).

    Raises:
        StoreError: the lake cannot be read.
    """
    until = now_ms if until_ms is None else until_ms
    scratch = settings.data_dir / "tmp"
    with (
        open_lake_views(settings, now_ms, until) as views,
        scratch_folder(scratch) as folder,
    ):
        rules = _rules(views, until)
        connection, parts = views.connection, StagedParts(folder / "staged")
        shown = f"(SELECT * FROM all_impressions WHERE timestamp_ms >= {int(since_ms)})"
        stage_late_events(connection, parts, "all_engagements", rules.lateness_ms)
        stage_engagements(connection, parts, "all_engagements", rules)
        stage_impressions(connection, parts, shown, rules)
        _unordered(connection, since_ms, until)
        left_out: Counter[str] = Counter()
        tables = []
        for part in range(rules.n_parts):
            _attach_once(connection, "engagements", parts.engagements(part), "event_id")
            _attach_once(connection, "impressions", parts.impressions(part), "moment_id")
            counts = label_moments(connection, rules)
            left_out["window_open"] += counts["impressions_window_open"]
            left_out.update(_count_unusable(connection))
            tables.append(_slates(connection, _worth_sql(settings, kind)))
        return _as_arrays(pa.concat_tables(tables).combine_chunks(), left_out)


def _rules(views: LakeViews, until_ms: int) -> ExampleRules:
    known = views.row("""
        SELECT (SELECT count(*) FROM engagements) AS n_engagements,
            (SELECT count(*) FROM impressions) AS n_impressions,
            greatest((SELECT max(timestamp_ms) FROM impressions), (SELECT
                max(coalesce(received_at_ms, timestamp_ms)) FILTER (origin <> 'import')
                FROM engagements)) AS newest_ms""")
    return rules_of(
        views.settings,
        _OPTIONS,
        until_ms=until_ms,
        newest_live_ms=known["newest_ms"] or 0,
        newest_import_ms=0,
        n_rows=known["n_engagements"] + known["n_impressions"] * _ROWS_PER_SLATE,
    )


def _unordered(connection: duckdb.DuckDBPyConnection, since_ms: int, until_ms: int) -> None:
    """Table `unordered`: impressions in plain score order, because the ordering stage was away."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE unordered AS
        SELECT event_id AS moment_id FROM all_impressions
        WHERE timestamp_ms >= {int(since_ms)} AND timestamp_ms < {int(until_ms)}
            AND len(list_filter(degraded, lambda reason: starts_with(reason, 'ordering:'))) > 0""")


def _attach_once(
    connection: duckdb.DuckDBPyConnection, view: str, query: str, event_id: str
) -> None:
    """View of the events, each once."""
    once = f"{query} QUALIFY row_number() OVER (PARTITION BY {event_id} ORDER BY sequence) = 1"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {once}")


_USABLE = """
    impressions i SEMI JOIN moments USING (moment_id) ANTI JOIN unordered USING (moment_id)
    WHERE is_scored AND len(slate) > 0
        AND list_min(list_transform(slate, lambda shown: shown.propensity)) > 0"""


def _count_unusable(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Impressions that no ordering policy chose, or whose propensities are none."""
    n_away, n_empty, n_closed, n_usable = connection.sql(f"""
        SELECT count(*) FILTER (NOT is_scored OR moment_id IN (FROM unordered)),
            count(*) FILTER (len(slate) = 0), count(*), (SELECT count(*) FROM {_USABLE})
        FROM impressions SEMI JOIN moments USING (moment_id)""").fetchall()[0]
    rest = n_closed - n_usable - n_away - n_empty
    return {"stage_away": n_away, "empty": n_empty, "no_propensity": max(rest, 0)}


def _worth_sql(settings: Settings, kind: str | None) -> str:
    """SQL of what a label is worth, as the scorer's utility weighs it."""
    if kind is not None:
        return f"(label.kind = {sql_text(kind)})::DOUBLE"
    # That an item was seen is no reward, unless somebody says what it is worth.
    weights = dict.fromkeys(sorted(SIGHT_KINDS), 0.0) | settings.train.scorer.utility_weights
    named = "".join(f" WHEN {sql_text(k)} THEN {float(w)!r}" for k, w in weights.items())
    is_negative = f"list_contains({sql_texts(settings.events.negative_kinds)}, label.kind)"
    plain = f"CASE WHEN {is_negative} THEN -1.0 ELSE 1.0 END"
    return f"CASE label.kind{named} ELSE {plain} END"


def _slates(connection: duckdb.DuckDBPyConnection, worth: str) -> pa.Table:
    """One row per usable slate of the part, with lists by position."""
    return connection.sql(f"""
        SELECT user_id, bundle_id, timestamp_ms, moment_id, best_unshown, propensities, scores,
            rewards
        FROM (SELECT moment_id, user_id, bundle_id, timestamp_ms, list_max(list_transform(unshown,
                lambda left_out: left_out.score)) AS best_unshown FROM {_USABLE})
        JOIN (
            SELECT moment_id, list(propensity ORDER BY position) AS propensities,
                list(score ORDER BY position) AS scores,
                list(coalesce(list_sum(list_transform(labels, lambda label: {worth})), 0.0)::DOUBLE
                    ORDER BY position) AS rewards
            FROM candidates WHERE stage = 'shown' GROUP BY moment_id) USING (moment_id)
        ORDER BY timestamp_ms, moment_id""").to_arrow_table(_ROWS_AT_ONCE)


def _as_arrays(table: pa.Table, left_out: Counter[str]) -> LoggedSlates:
    table = table.sort_by([("timestamp_ms", "ascending"), ("moment_id", "ascending")])
    lengths = np.array([len(one) for one in table["propensities"]], np.int64)
    width = int(lengths.max(initial=0))
    _, users = np.unique(_texts(table["user_id"]), return_inverse=True)
    names, bundles = np.unique(_texts(table["bundle_id"]), return_inverse=True)
    records = SlateRecords(
        propensities=_padded(table["propensities"], lengths, width, 1.0),
        scores=_padded(table["scores"], lengths, width, -np.inf),
        best_unshown=table["best_unshown"].to_numpy().astype(np.float64),
        lengths=lengths,
    )
    return LoggedSlates(
        records=records,
        rewards=_padded(table["rewards"], lengths, width, 0.0),
        event_ids=_texts(table["moment_id"]),
        users=np.asarray(users, np.int64),
        bundles=np.asarray(bundles, np.int64),
        bundle_ids=tuple(map(str, names)),
        left_out={reason: n for reason, n in sorted(left_out.items()) if n},
    )


def _texts(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.asarray(column.to_pylist(), dtype=np.str_)


def _padded(
    column: pa.ChunkedArray, lengths: NDArray[np.int64], width: int, padding: float
) -> Values:
    """Lists of different lengths as one array [R, K]."""
    out = np.full((len(lengths), width), padding)
    out[np.arange(width) < lengths[:, None]] = pa.concat_arrays(
        [chunk.flatten() for chunk in column.chunks] or [pa.array([], pa.float64())]
    ).to_numpy(zero_copy_only=False)
    return out
