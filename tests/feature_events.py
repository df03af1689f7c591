"""Events for tests of the features, and random but repeatable logs of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from recsys.events import CatalogueChange, Engagement, Event, Forgotten, encode_event, event_key
from recsys.feature_definitions import WINDOWS_S
from recsys.stores.log.event_log import LogRecord, partition_of
from train_app.following.features.feature_fold import FoldRules
from train_app.following.features.feature_records import DecodedPart, decode_part

NOW_MS = 1_790_000_000_000
RULES = FoldRules(
    history_limit=20,
    negative_kinds=frozenset({"dismiss"}),
    windows_s=WINDOWS_S,
    pair_history=3,
    pair_days=2,
)


def an_engagement(
    item_id: str = "i1",
    timestamp_ms: int = NOW_MS,
    user_id: str = "u1",
    kind: str = "click",
    event_id: str | None = None,
    received_at_ms: int | None = None,
) -> Engagement:
    """A click, received when it happened."""
    return Engagement(
        event_id=event_id or f"{user_id}-{item_id}-{timestamp_ms}-{kind}",
        kind=kind,
        user_id=user_id,
        item_id=item_id,
        timestamp_ms=timestamp_ms,
        received_at_ms=timestamp_ms if received_at_ms is None else received_at_ms,
        origin="api",
    )


def a_random_event(n: int, rng: random.Random, span_ms: int = 3 * 86_400_000) -> Event:
    """The n-th event: mostly engagements, roughly in order of time, some very late."""
    # Real times advance; what is out of order is so by minutes, and sometimes by days.
    time_ms = NOW_MS + n * span_ms // 400 - rng.choice([0, 0, 0, 60_000, 1_800_000, 90_000_000])
    user_id, item_id = f"u{rng.randrange(9)}", f"i{rng.randrange(12)}"
    match rng.randrange(40):
        case 0:
            return Forgotten(event_id=f"e{n}", user_id=user_id, timestamp_ms=time_ms)
        case 1:
            return CatalogueChange(
                event_id=f"e{n}", item_id=item_id, timestamp_ms=time_ms, deleted=rng.random() < 0.5
            )
        case _:
            kind = rng.choice(["click", "view", "dismiss"])
            return an_engagement(item_id, time_ms, user_id, kind, f"e{n}", time_ms)


def log_records(events: Iterable[Event], n_partitions: int = 4) -> dict[int, list[LogRecord]]:
    """The events as a log that keeps repetitions would hold them."""
    records: dict[int, list[LogRecord]] = {partition: [] for partition in range(n_partitions)}
    for event in events:
        mine = records[partition_of(event_key(event), n_partitions)]
        partition = partition_of(event_key(event), n_partitions)
        mine.append(LogRecord(partition, len(mine), event.event_id, encode_event(event)))
    return records


def a_part(records: Sequence[LogRecord]) -> DecodedPart:
    """A run of records of one partition, decoded."""
    return decode_part(records[-1].partition, records[-1].offset + 1, records)


def events_part(*events: Event, next_offset: int = 1) -> DecodedPart:
    """A run of nothing but these events."""
    return DecodedPart(0, next_offset, events)  # type: ignore[arg-type]
