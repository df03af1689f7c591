"""Merges imported histories into the feature store; part of its one writer, `stream_features`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import duckdb
import pyarrow as pa

from recsys.settings import Settings
from recsys.stores.features.feature_update import FeatureWriter, MergedUsers
from recsys.types import HistoryEvent, UserState
from train_app.following.features.feature_fold import FoldRules, fold_rules, merge_part

_USERS_PER_LOAD = 500
_ROWS_PER_BATCH = 50_000


@dataclass(frozen=True, slots=True)
class HistoryLoad:
    """What an import changed in the feature store."""

    n_users: int
    """Users that were offered, changed or not."""
    n_events_added: int


def load_histories(
    writer: FeatureWriter,
    user_histories: Iterable[tuple[str, Sequence[HistoryEvent]]],
    settings: Settings,
) -> HistoryLoad:
    """Merge imported engagements into the stored histories, and count them as popular.

    The same import again changes nothing. Memory is bounded by some hundred users' events.

    Args:
        writer: the store to load into; stays open.
        user_histories: users with their events in order of arrival, each user once.

    Raises:
        StoreError: what was loaded up to here is kept; the same import again completes it.
    """
    rules = fold_rules(settings, log_may_repeat=False)
    loads = list(load_in_parts(writer, user_histories, rules, settings.features.popular_limit))
    return HistoryLoad(sum(e.n_users for e in loads), sum(e.n_events_added for e in loads))


def load_in_parts(
    writer: FeatureWriter,
    user_histories: Iterable[tuple[str, Sequence[HistoryEvent]]],
    rules: FoldRules,
    popular_limit: int,
) -> Iterator[HistoryLoad]:
    """The same, some hundred users at a time."""
    pending = iter(user_histories)
    while part := list(islice(pending, _USERS_PER_LOAD)):
        yield HistoryLoad(len(part), _load_part(writer, part, rules))
    most = writer.most_imported(popular_limit)
    writer.write_popular("import", [(item_id, float(n)) for item_id, n in most])


def imported_histories(
    connection: duckdb.DuckDBPyConnection, engagements: str, history_limit: int
) -> Iterator[tuple[str, list[HistoryEvent]]]:
    """The newest imported engagements of each user, by time; where times are equal, by their row.

    The order is total, as rows of two files may have one time and one place: whenever a store is
    filled from the same lake, its histories are the same, and `history_replay` can make them again.

    Args:
        engagements: name of a view with rows of the lake's table.
    """
    ties = ("sequence", "received_at_ms", "event_id")
    query = f"""
        SELECT user_id, item_id, kind, timestamp_ms FROM {engagements} WHERE origin = 'import'
        QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY timestamp_ms DESC,
            {", ".join(f"{name} DESC" for name in ties)}) <= {history_limit}
        ORDER BY user_id, timestamp_ms, {", ".join(ties)}"""
    return _grouped(connection.sql(query).to_arrow_reader(_ROWS_PER_BATCH))


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, list[HistoryEvent]]]:
    """Users with their events, from rows sorted by user."""
    user: str | None = None
    events: list[HistoryEvent] = []
    for batch in batches:
        columns = (batch.column(name).to_pylist() for name in batch.schema.names)
        for user_id, item_id, kind, timestamp_ms in zip(*columns, strict=True):
            if user_id != user:
                if user is not None:
                    yield user, events
                user, events = user_id, []
            events.append(HistoryEvent(item_id, kind, timestamp_ms))
    if user is not None:
        yield user, events


def _load_part(
    writer: FeatureWriter, part: list[tuple[str, Sequence[HistoryEvent]]], rules: FoldRules
) -> int:
    n_added = 0

    def merge(states: Mapping[str, UserState]) -> MergedUsers:
        nonlocal n_added
        merged, n_added = merge_part(part, states, rules)
        return merged

    writer.merge_users([user_id for user_id, _ in part], merge)
    return n_added
