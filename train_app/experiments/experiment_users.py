"""An experiment's users as the comparisons read them, from the lake: sums per user and per day.

Users who were shown more than one side are left out of every side, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from recsys.evidence.arm_sample import ONE, ArmSample
from recsys.evidence.experiment_design import ExperimentDesign
from recsys.evidence.segmented import Labels
from recsys.stores.evidence.evidence_sums import LatencyHistogram
from train_app.checking.lake_views import LakeViews
from train_app.experiments.credited_slates import DAY_MS, NO_ARM, CreditRules, credit_slates

Values: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = dict[str, Values]
_TRAITS = ("diversity", "novelty")
"""Of the slates that say them; how many do is a sum of its own."""
_SLATE_SUMS = (
    "slates",
    "shown",
    "engaged_slates",
    "engaged_items",
    "touched_items",
    "utility",
    "dismissed_items",
    "conversions",
    "value",
    *_TRAITS,
    *(f"{name}_slates" for name in _TRAITS),
)
_SESSION_SUMS = ("sessions", "session_s")
CONTEXT_SEGMENTS = ("device", "surface", "country")
"""Keys of a request's context that a report is split by, where requests carry them."""
N_VALUES: Mapping[str, int] = {"user": 2}
"""How many values a segmentation has, where that is known; their users share its alpha."""
NONE = "none"
_VALUES = {"user": "if(coalesce(history_version, 0) = 0, 'new', 'returning')"} | {
    key: f"coalesce(context['{key}'], '{NONE}')" for key in CONTEXT_SEGMENTS
}
"""Segmentation to the value of a participant."""


@dataclass(frozen=True)
class ExperimentUsers:
    """All sides of an experiment."""

    arms: Mapping[str, ArmSample]
    """By side, users with a slate whose label window is closed."""
    days: Mapping[str, Mapping[str, ArmSample]]
    """Day (ISO, UTC) to the sides' users of that day alone, with their past."""
    segments: Mapping[str, Labels]
    """Segmentation to side to each user's value."""
    arrived: Mapping[str, Sequence[str]]
    """Segmentation to its values in the order of their first users, of whatever side."""
    n_moved: int
    """Users who were shown several sides: they are in none."""
    n_open: int
    """Slates of the sides whose label window is not closed: they are left out."""
    n_outside: int
    """Slates that users of the experiment were shown meanwhile under no side of it."""


def read_users(views: LakeViews, design: ExperimentDesign, rules: CreditRules) -> ExperimentUsers:
    """The users of every side of the design.

    Raises:
        duckdb.Error: the lake cannot be read.
    """
    connection = views.connection
    credit_slates(connection, rules)
    _join_days(connection, rules)
    names = [arm.name for arm in design.plan.arms]
    counts = views.row(f"""
        SELECT (SELECT count(*) FROM participants WHERE n_arms > 1) AS n_moved,
            (SELECT count(DISTINCT slate_id) FROM all_shown WHERE arm <> '{NO_ARM}'
                AND shown_ms >= {rules.end_ms}) AS n_open,
            (SELECT count(*) FROM shown WHERE is_during AND arm = '{NO_ARM}'
                AND shown_ms < {rules.end_ms}) AS n_outside""")
    requests = _requests(connection, rules)
    sides = {name: _Side(connection, name) for name in names}
    days = sorted({int(day) for side in sides.values() for day in np.unique(side.days)})
    segments = _segments(sides)
    return ExperimentUsers(
        {name: side.sample(requests.get(name, {})) for name, side in sides.items()},
        {
            str(np.datetime64(day, "D")): {name: side.on(day) for name, side in sides.items()}
            for day in days
        },
        segments,
        {key: _arrived(connection, key) for key in segments},
        counts["n_moved"],
        counts["n_open"],
        counts["n_outside"],
    )


def _join_days(connection: duckdb.DuckDBPyConnection, rules: CreditRules) -> None:
    """Table `user_days`: sums per user, day and phase; users of several sides are left out."""
    closed = f"NOT is_during OR (arm <> '{NO_ARM}' AND %s < {rules.end_ms})"
    slate_sums = ", ".join(
        f"count({name.removesuffix('_slates')})::DOUBLE AS {name}"
        if name.removesuffix("_slates") in _TRAITS and name not in _TRAITS
        else f"coalesce(sum({name}), 0) AS {name}"
        for name in _SLATE_SUMS[3:]
    )
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE one_sided AS
        SELECT row_number() OVER (ORDER BY user_id) - 1 AS place, * FROM participants
        WHERE n_arms = 1;
        CREATE OR REPLACE TEMP TABLE user_days AS
        WITH of_slates AS (
            SELECT user_id, is_during, shown_ms // {DAY_MS} AS day, count(*)::DOUBLE AS slates,
                sum(len(items))::DOUBLE AS shown,
                (count(*) FILTER (engaged_items > 0))::DOUBLE AS engaged_slates, {slate_sums}
            FROM shown LEFT JOIN slate_sums USING (slate_id)
            WHERE {closed % "shown_ms"} GROUP BY ALL),
        of_sessions AS (
            SELECT user_id, is_during, first_shown_ms // {DAY_MS} AS day,
                count(*)::DOUBLE AS sessions, sum(session_s)::DOUBLE AS session_s
            FROM sessions WHERE {closed % "first_shown_ms"} GROUP BY ALL)
        SELECT u.place, u.arm, d.* REPLACE (coalesce(sessions, 0) AS sessions,
            coalesce(session_s, 0) AS session_s)
        FROM one_sided u JOIN (
            SELECT * FROM of_slates LEFT JOIN of_sessions USING (user_id, is_during, day)) d
            USING (user_id)""")


class _Side:
    """One side's rows of `user_days` as arrays; users by their place."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        self.name = name
        names = (*_SLATE_SUMS, *_SESSION_SUMS)
        now, before = (
            connection.execute(
                f"SELECT place, day, {', '.join(names)} FROM user_days"
                " WHERE arm = $arm AND is_during = $phase ORDER BY place, day",
                {"arm": name, "phase": phase},
            ).fetchnumpy()
            for phase in (True, False)
        )
        traits = connection.execute(
            "SELECT "
            + ", ".join(f"{value} AS {key}" for key, value in _VALUES.items())
            + " FROM one_sided WHERE arm = $arm ORDER BY place",
            {"arm": name},
        ).fetchnumpy()
        self.traits = {key: np.asarray(column).astype(np.str_) for key, column in traits.items()}
        self.days = np.asarray(now["day"], np.int64)
        self._now = {key: np.asarray(now[key], np.float64) for key in names}
        self._places, self._at = np.unique(np.asarray(now["place"]), return_inverse=True)
        self._before = self._past(before, names)

    def sample(self, counts: Mapping[str, float]) -> ArmSample:
        """All of it."""
        n = len(self._places)
        sums = {
            key: np.bincount(self._at, one, n).astype(np.float64) for key, one in self._now.items()
        }
        return ArmSample(self.name, "", _measures(sums), self._before, counts, LatencyHistogram({}))

    def on(self, day: int) -> ArmSample:
        """The users of one day, with what they did on it."""
        rows = self.days == day
        at = self._at[rows]
        before = None
        if self._before is not None:
            before = {key: column[at] for key, column in self._before.items()}
        sums = {key: column[rows] for key, column in self._now.items()}
        return ArmSample(self.name, "", _measures(sums), before, {}, LatencyHistogram({}))

    def _past(self, before: Mapping[str, NDArray[np.generic]], names: tuple[str, ...]) -> Columns:
        """Sums of the same users before, NaN for one without slates, [U]."""
        places = np.asarray(before["place"], np.int64)
        at = np.searchsorted(self._places, places)
        n = len(self._places)
        sums = {
            key: np.bincount(at, np.asarray(before[key], np.float64), n).astype(np.float64)
            for key in names
        }
        known = np.bincount(at, minlength=n) > 0
        return {key: np.where(known, one, np.nan) for key, one in _measures(sums).items()}


def _measures(sums: Columns) -> Columns:
    """The sums with the measures that are made of them."""
    ones = np.ones(len(sums["slates"]))
    returned = (sums["sessions"] >= 2).astype(np.float64)
    return {**sums, ONE: ones, "returned": returned}


def _segments(sides: Mapping[str, _Side]) -> dict[str, Labels]:
    """New and returning users, and the values of the context that any user carries."""
    found = {key: {name: side.traits[key] for name, side in sides.items()} for key in _VALUES}
    return {
        key: labels
        for key, labels in found.items()
        if key in N_VALUES or any((column != NONE).any() for column in labels.values())
    }


def _arrived(connection: duckdb.DuckDBPyConnection, key: str) -> list[str]:
    """The values of a segmentation as they came; who was shown several sides brings one too."""
    rows = connection.execute(
        f"SELECT {_VALUES[key]} AS value FROM participants GROUP BY value"
        " ORDER BY min(first_ms), value"
    ).fetchall()
    # Labels are numpy strings, which have no NUL at their end.
    return list(dict.fromkeys(str(value).rstrip("\0") for (value,) in rows))


def _requests(
    connection: duckdb.DuckDBPyConnection, rules: CreditRules
) -> dict[str, dict[str, float]]:
    """Slates, what they covered and how many were degraded, by side."""
    rows = connection.execute(f"""
        SELECT arm, count(*), sum(coverage), count(*) FILTER (len(degraded) > 0)
        FROM shown WHERE is_during AND arm <> '{NO_ARM}' AND shown_ms < {rules.end_ms}
        GROUP BY arm""").fetchall()
    return {
        arm: {
            "slates": float(n),
            "requests": float(n),
            "answered": float(n),
            "covered": float(covered or 0),
            "degraded": float(n_degraded),
        }
        for arm, n, covered, n_degraded in rows
    }
