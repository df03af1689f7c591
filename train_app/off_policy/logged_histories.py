"""The histories that served slates were chosen from, made again from the lake.

An impression holds the newest items of the history it was made of. A history counts as found
again where what the lake had by then ends with just those items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.settings import Settings
from recsys.types import HistoryEvent
from train_app.checking.lake_views import LakeViews, open_lake_views

MAX_BEHIND = 20
"""The feature store may have been so many engagements behind the log when it was read."""
_timestamp_of = attrgetter("timestamp_ms")


@dataclass(frozen=True, slots=True)
class ServedMoment:
    """One impression: for whom and when, what it showed, and from which history."""

    event_id: str
    timestamp_ms: int
    item_ids: tuple[str, ...]
    history: tuple[HistoryEvent, ...] | None
    """Oldest first; None where the lake does not give the one that was logged."""


def read_moments(
    settings: Settings, event_ids: NDArray[np.str_], now_ms: int
) -> dict[str, ServedMoment]:
    """The moments of some impressions, by event id.

    Raises:
        StoreError: the lake cannot be read.
    """
    with open_lake_views(settings, now_ms) as views:
        views.connection.register("wanted", pa.table({"event_id": event_ids.tolist()}))
        impressions = views.rows("""
            SELECT event_id, user_id, timestamp_ms, list_transform(slate, lambda s: s.item_id)
                AS item_ids, coalesce(history_items, []) AS history_items
            FROM impressions SEMI JOIN wanted USING (event_id)
            QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY sequence) = 1""")
        received = _received(views)
    return {
        row["event_id"]: ServedMoment(
            event_id=row["event_id"],
            timestamp_ms=row["timestamp_ms"],
            item_ids=tuple(row["item_ids"]),
            history=history_as_logged(
                received.get(row["user_id"], ()),
                row["timestamp_ms"],
                tuple(row["history_items"]),
                settings.features.history_limit,
                settings.serve.log_history,
            ),
        )
        for row in impressions
    }


def history_as_logged(
    received: Sequence[tuple[int, HistoryEvent]],
    at_ms: int,
    newest_items: tuple[str, ...],
    limit: int,
    n_logged: int,
) -> tuple[HistoryEvent, ...] | None:
    """The history at a moment, if what was received by then can end with the items logged.

    Args:
        received: a user's engagements with the time of their arrival, in order of arrival.
        newest_items: the newest items of the history that was used, oldest first.
        limit: engagements that a history keeps.
        n_logged: items logged at most.
    """
    known = [event for received_ms, event in received if received_ms <= at_ms]
    for n_behind in range(min(MAX_BEHIND, len(known)) + 1):
        part = sorted(known[: len(known) - n_behind], key=_timestamp_of)[-limit:]
        tail = tuple(event.item_id for event in part[-n_logged:]) if n_logged else ()
        if tail == newest_items:
            return tuple(part)
    return None


def _received(views: LakeViews) -> Mapping[str, list[tuple[int, HistoryEvent]]]:
    """Every engagement of the users that are wanted, in order of arrival."""
    rows: list[dict[str, Any]] = views.rows("""
        SELECT user_id, item_id, kind, timestamp_ms,
            coalesce(received_at_ms, timestamp_ms) AS received_ms
        FROM (SELECT * FROM engagements SEMI JOIN
            (SELECT user_id FROM impressions SEMI JOIN wanted USING (event_id)) USING (user_id))
        WHERE item_id IS NOT NULL AND timestamp_ms IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY sequence) = 1
        ORDER BY user_id, origin <> 'import', received_ms, log_partition, sequence""")
    by_user: dict[str, list[tuple[int, HistoryEvent]]] = defaultdict(list)
    for row in rows:
        event = HistoryEvent(row["item_id"], row["kind"], row["timestamp_ms"])
        by_user[row["user_id"]].append((row["received_ms"], event))
    return by_user
