"""Whether the features that serving logged are those that the log makes: a difference is a skew.

An impression names the version of the user's history it read, and its newest items. Reads the
lake; which histories its events make is `history_replay`, what that says `history_verdicts`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from recsys.types import HistoryEvent
from train_app.checking.check_report import CheckResult, earlier_figures, error, warning
from train_app.checking.history_replay import ReceivedEvent
from train_app.checking.history_verdicts import (
    LoggedFeatures,
    ReplayRules,
    UserFacts,
    Verdict,
    compare_histories,
)
from train_app.checking.lake_views import LakeViews
from train_app.lake.lake_rows import log_mark

_ROWS_AT_ONCE = 5_000
_EXAMPLES = 3
_COMPARED = ("equal", "different")


@dataclass(slots=True)
class _Seen:
    """What was found so far."""

    counts: Counter[Verdict]
    examples: list[str]
    """Event ids of impressions that differ."""


def check_skew(views: LakeViews) -> CheckResult:
    """Whether histories as logged equal histories as made again, for a sample of users."""
    seen = _compare(views)
    counts, tolerance = seen.counts, views.settings.checks.skew_tolerance
    n_compared = counts["equal"] + counts["different"]
    figures: dict[str, int | float | str | None] = {
        "impressions": sum(counts.values()),
        "history_limit": views.settings.features.history_limit,
        **{name.replace(" ", "_"): n for name, n in counts.items()},
    }
    apart = "; ".join(
        f"{n:,} {name}" for name, n in sorted(counts.items()) if name not in _COMPARED and n
    )
    if counts["different"]:
        share = counts["different"] / n_compared
        detail = (
            f"{counts['different']:,} of {n_compared:,} impressions used another history than the"
            f" log makes of their user, {', '.join(seen.examples)} among them; expected at most"
            f" {tolerance:.2%} (checks.skew_tolerance); rebuild the feature store with 'cluster"
            " events replay --features --from-lake', and train once those impressions are older"
            " than checks.skew_days, or accept them by the tolerance"
        )
        found = error(detail) if share > tolerance else warning(detail)
        return CheckResult("skew", (found,), figures)
    note = (
        f"{n_compared:,} histories as logged equal those made again"
        if n_compared
        else "no impression to compare yet"
    )
    return CheckResult("skew", (), figures, note + (f"; cannot be told: {apart}" if apart else ""))


def _compare(views: LakeViews) -> _Seen:
    _sample(views)
    rules = _rules(views)
    facts = _Facts(views)
    seen = _Seen(Counter(), [])
    for group in _by_user(views):
        impressions = [row for row in group if row["is_impression"]]
        received = [_received(row) for row in group if not row["is_impression"]]
        of_user = facts.of(group[0]["user_id"], group[-1]["log_partition"])
        verdicts = compare_histories(
            [_logged(row) for row in impressions], received, rules, of_user
        )
        seen.counts.update(verdicts)
        seen.examples += [
            str(row["event_id"])
            for row, verdict in zip(impressions, verdicts, strict=True)
            if verdict == "different"
        ]
        del seen.examples[_EXAMPLES:]
    return seen


def _rules(views: LakeViews) -> ReplayRules:
    limit = views.settings.features.history_limit
    earlier = earlier_figures(views.settings.data_dir, "skew", "history_limit")
    others = {value for value in earlier if isinstance(value, int) and value > 0} - {limit}
    since = views.row("SELECT min(timestamp_ms) FILTER (len(history_items) > 0) AS at FROM"
                      " recent_impressions")  # fmt: skip
    is_logging = views.settings.serve.log_history > 0
    return ReplayRules(limit, tuple(sorted(others)), since["at"] if is_logging else None)


class _Facts:
    """What the lake has on record of partitions and users, beside events."""

    def __init__(self, views: LakeViews) -> None:
        self._table = views.tables["engagements"]
        views.attach("skipped")
        views.attach("quarantine")
        gaps = "SELECT log_partition, min(log_offset) AS at FROM skipped WHERE reason = 'gap'"
        self._gaps = {
            row["log_partition"]: row["at"] for row in views.rows(f"{gaps} GROUP BY log_partition")
        }
        self._forgettings: dict[int, tuple[tuple[int, int], ...]] = defaultdict(tuple)
        for row in views.rows("""SELECT log_partition, log_offset, received_at_ms FROM skipped
                WHERE reason = 'forgetting' ORDER BY log_offset"""):
            entry = (row["log_offset"], row["received_at_ms"])
            self._forgettings[row["log_partition"]] += (entry,)
        self._quarantined = {
            row["user_id"]: row["at"]
            for row in views.rows("""SELECT user_id, min(log_offset) AS at FROM quarantine
                SEMI JOIN sampled_users USING (user_id) WHERE log_offset IS NOT NULL
                GROUP BY user_id""")
        }

    def of(self, user_id: str, partition: int | None) -> UserFacts:
        """The facts of a user whose records are in a partition."""
        if partition is None:
            return UserFacts()
        return UserFacts(
            filled_to=None if self._table is None else self._table.mark(log_mark(partition)),
            gap_offset=self._gaps.get(partition),
            quarantine_offset=self._quarantined.get(user_id),
            forgettings=self._forgettings[partition],
        )


# Without the cutoff: what a client dated ahead of its arrival counted in versions before it.
_ROWS = """
    SELECT user_id, false AS is_impression, timestamp_ms, event_id, item_id, kind, received_at_ms,
        origin = 'import' AS is_imported, log_partition, log_offset, coalesce(sequence, 0) AS place
    FROM all_engagements SEMI JOIN sampled_users USING (user_id)
    WHERE item_id IS NOT NULL AND timestamp_ms IS NOT NULL
    UNION ALL BY NAME
    SELECT user_id, true AS is_impression, timestamp_ms, event_id, history_version, history_items,
        log_partition, log_offset,
        len(list_filter(degraded, lambda r: starts_with(r, 'features:'))) > 0 AS is_unread
    FROM recent_impressions SEMI JOIN sampled_users USING (user_id)
    ORDER BY user_id, is_impression, is_imported DESC,
        CASE WHEN is_imported THEN received_at_ms END,
        CASE WHEN is_imported THEN timestamp_ms END, log_partition, place, event_id"""


def _sample(views: LakeViews) -> None:
    checks = views.settings.checks
    views.connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW recent_impressions AS SELECT * FROM impressions
            WHERE user_id IS NOT NULL AND timestamp_ms >=
                (SELECT max(timestamp_ms) FROM impressions) - {int(checks.skew_days * 86_400_000)};
        CREATE OR REPLACE TEMP TABLE sampled_users AS SELECT user_id FROM
            (SELECT DISTINCT user_id FROM recent_impressions)
            ORDER BY hash(user_id), user_id LIMIT {checks.skew_users}""")


def _by_user(views: LakeViews) -> Iterator[list[dict[str, Any]]]:
    """The rows of one user after the other, impressions last; only those are in memory."""
    reader = views.connection.sql(_ROWS).to_arrow_reader(_ROWS_AT_ONCE)
    rows = (row for batch in reader for row in batch.to_pylist())
    for _, group in groupby(rows, key=itemgetter("user_id")):
        yield list(group)


def _logged(row: dict[str, Any]) -> LoggedFeatures:
    return LoggedFeatures(
        timestamp_ms=row["timestamp_ms"],
        version=row["history_version"] or 0,
        items=tuple(row["history_items"] or ()),
        is_unread=bool(row["is_unread"]),
        log_offset=row["log_offset"],
    )


def _received(row: dict[str, Any]) -> ReceivedEvent:
    event = HistoryEvent(row["item_id"], row["kind"], row["timestamp_ms"])
    return ReceivedEvent(event, row["received_at_ms"] or 0, bool(row["is_imported"]), row["place"])
