"""Whether the features that serving logged are those that the log makes: a difference is a skew.

An impression names the version of the user's history it read, and its newest items. The version
counts the changes, so that the same history can be made again from the lake, to the event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Literal, TypeAlias

from recsys.types import HistoryEvent, UserState
from train_app.checking.check_report import CheckResult, error, warning
from train_app.checking.lake_views import LakeViews
from train_app.following.feature_fold import merge_imported

SKEW_DAYS = 7
"""Impressions of so many days are looked at, back from the newest."""
SKEW_USERS = 2_000
"""Users of theirs whose histories are made again, drawn by hash."""
REFUSED_SHARE = 0.05
"""A store that was begun anew explains some differences, until their impressions are old."""
_ROWS_AT_ONCE = 5_000
Verdict: TypeAlias = Literal[
    "equal", "different", "imported between", "ahead of the lake", "unread"
]
_timestamp_of = attrgetter("timestamp_ms")


@dataclass(frozen=True, slots=True)
class LoggedFeatures:
    """The features of one impression, as serving used them."""

    timestamp_ms: int
    version: int
    items: tuple[str, ...]
    is_unread: bool


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One engagement as the feature store got it."""

    event: HistoryEvent
    received_ms: int
    is_imported: bool


def check_skew(views: LakeViews) -> CheckResult:
    """Whether histories as logged equal histories as made again, for a sample of users."""
    limit = views.settings.features.history_limit
    n_logged = views.settings.serve.log_history
    _sample(views)
    counts: Counter[Verdict] = Counter()
    for impressions, received in _by_user(views):
        counts.update(compare_histories(impressions, received, limit, n_logged))
    total = sum(counts.values())
    n_compared = counts["equal"] + counts["different"]
    figures = {"impressions": total, **{name.replace(" ", "_"): n for name, n in counts.items()}}
    share = counts["different"] / n_compared if n_compared else 0.0
    if counts["different"]:
        detail = (
            f"{counts['different']:,} of {n_compared:,} impressions used another history than the"
            " log makes of their user; rebuild the feature store, and do not learn from features"
            " as logged until it agrees"
        )
        found = error(detail) if share > REFUSED_SHARE else warning(detail)
        return CheckResult("skew", (found,), figures)
    apart = ", ".join(
        f"{n:,} {name}" for name, n in sorted(counts.items()) if name != "equal" and n
    )
    note = (
        f"{n_compared:,} histories as logged equal those made again"
        if n_compared
        else "no impression to compare yet"
    )
    return CheckResult("skew", (), figures, note + (f"; cannot be told: {apart}" if apart else ""))


def compare_histories(
    impressions: Sequence[LoggedFeatures],
    received: Sequence[ReceivedEvent],
    limit: int,
    n_logged: int,
) -> list[Verdict]:
    """What the features of one user's impressions are, compared with those made again.

    Where imported events were merged in between logged ones, what the versions in between count
    cannot be told from the lake: those are `imported between`. So is every version below what an
    import before all logged events makes.

    Args:
        received: the user's engagements: imported ones by time of import, then in order of
            arrival; logged ones in log order.
        limit: events that a history keeps.
        n_logged: items logged with an impression at most.
    """
    imported = [one for one in received if one.is_imported]
    logged = [one for one in received if not one.is_imported]
    wanted = {one.version for one in impressions}
    is_between = bool(
        imported
        and logged
        and max(one.received_ms for one in imported) >= min(one.received_ms for one in logged)
    )
    histories = {} if is_between else histories_by_version(imported, logged, limit, wanted)
    newest = max(histories, default=0)
    first = min(histories, default=0)
    verdicts: list[Verdict] = []
    for one in impressions:
        if one.is_unread:
            verdicts.append("unread")
        elif is_between or (imported and one.version < first):
            verdicts.append("imported between")
        elif one.version > newest:
            verdicts.append("ahead of the lake")
        else:
            kept = histories.get(one.version, ())
            expected = kept[-len(one.items) :] if one.items else ()
            is_equal = expected == one.items and (bool(one.items) or not kept or not n_logged)
            verdicts.append("equal" if is_equal else "different")
    return verdicts


def histories_by_version(
    imported: Sequence[ReceivedEvent],
    logged: Sequence[ReceivedEvent],
    limit: int,
    wanted: set[int],
) -> dict[int, tuple[str, ...]]:
    """The item ids of a user's history, oldest first, at the first, last and wanted versions."""
    state = UserState("")
    offered: list[HistoryEvent] = []
    for _, part in groupby(imported, key=attrgetter("received_ms")):
        # An import offers the newest of all that was imported so far.
        offered = sorted([*offered, *(one.event for one in part)], key=_timestamp_of)[-limit:]
        state, _ = merge_imported(state, offered, limit)
    version, history = state.version, list(state.history)
    made = {version: tuple(event.item_id for event in history)}
    for one in logged:
        at = bisect_right(history, one.event.timestamp_ms, key=_timestamp_of)
        if at == 0 and len(history) >= limit:
            continue
        history.insert(at, one.event)
        del history[:-limit]
        version += 1
        if version in wanted:
            made[version] = tuple(event.item_id for event in history)
    made[version] = tuple(event.item_id for event in history)
    return made


_ROWS = """
    SELECT user_id, false AS is_impression, timestamp_ms, item_id, kind, received_at_ms,
        origin = 'import' AS is_imported, log_partition, sequence,
        NULL::BIGINT AS history_version, NULL::VARCHAR[] AS history_items, false AS is_unread
    FROM engagements SEMI JOIN sampled_users USING (user_id)
    WHERE item_id IS NOT NULL AND timestamp_ms IS NOT NULL
    UNION ALL BY NAME
    SELECT user_id, true AS is_impression, timestamp_ms, history_version, history_items,
        len(list_filter(degraded, lambda r: starts_with(r, 'features:'))) > 0 AS is_unread
    FROM recent_impressions SEMI JOIN sampled_users USING (user_id)
    ORDER BY user_id, is_impression, is_imported DESC,
        CASE WHEN is_imported THEN received_at_ms END,
        CASE WHEN is_imported THEN timestamp_ms END, log_partition, sequence"""


def _sample(views: LakeViews) -> None:
    views.connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW recent_impressions AS SELECT * FROM impressions
            WHERE user_id IS NOT NULL AND timestamp_ms >=
                (SELECT max(timestamp_ms) FROM impressions) - {SKEW_DAYS * 86_400_000};
        CREATE OR REPLACE TEMP TABLE sampled_users AS SELECT user_id FROM
            (SELECT DISTINCT user_id FROM recent_impressions)
            ORDER BY hash(user_id), user_id LIMIT {SKEW_USERS}""")


def _by_user(views: LakeViews) -> Iterator[tuple[list[LoggedFeatures], list[ReceivedEvent]]]:
    """Users with their impressions and engagements; those of one user are in memory at once."""
    reader = views.connection.sql(_ROWS).to_arrow_reader(_ROWS_AT_ONCE)
    rows = (row for batch in reader for row in batch.to_pylist())
    for _, group in groupby(rows, key=itemgetter("user_id")):
        impressions: list[LoggedFeatures] = []
        received: list[ReceivedEvent] = []
        for row in group:
            if row["is_impression"]:
                impressions.append(_logged(row))
            else:
                received.append(_received(row))
        yield impressions, received


def _logged(row: dict[str, Any]) -> LoggedFeatures:
    return LoggedFeatures(
        timestamp_ms=row["timestamp_ms"],
        version=row["history_version"] or 0,
        items=tuple(row["history_items"] or ()),
        is_unread=bool(row["is_unread"]),
    )


def _received(row: dict[str, Any]) -> ReceivedEvent:
    event = HistoryEvent(row["item_id"], row["kind"], row["timestamp_ms"])
    return ReceivedEvent(event, row["received_at_ms"] or 0, bool(row["is_imported"]))
