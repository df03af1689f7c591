"""Answers of shadows as a log holds them, for tests of evidence."""

from __future__ import annotations

from typing import Any

import msgspec

from recsys.events import Event, encode_event
from tests.evidence_by_hand import HOUR_MS, START_MS
from tests.fakes_event_log import MemoryEventLog
from train_app.following.evidence.evidence_records import CountedShadow


def a_copy(number: int, **changed: Any) -> CountedShadow:
    """A shadow's answer that shows the live slate's items turned round."""
    fields: dict[str, Any] = {
        "event_id": f"c{number}", "user_id": "u", "timestamp_ms": START_MS + number,
        "shadow_id": "s1", "status": 200, "reason": "", "live_items": ("a", "b"),
        "items": ("b", "a"), "live_ms": 10.0, "shadow_ms": 20.0,
    }  # fmt: skip
    return CountedShadow(**(fields | changed))


def as_record(event: Event | CountedShadow) -> bytes:
    """The event as a log holds it, with a field that evidence does not read."""
    if isinstance(event, CountedShadow):
        return msgspec.json.encode(msgspec.to_builtins(event) | {"propensities": [0.5]})
    return encode_event(event)


def a_log(*events: Event | CountedShadow) -> MemoryEventLog:
    """One partition of it, with doubles where events repeat."""
    log = MemoryEventLog(4)
    for event in events:
        log.append_raw(0, event.event_id, as_record(event))
    return log


COPIES = (
    a_copy(0),
    a_copy(1, items=("a", "b"), degraded=("shard",)),
    a_copy(2, status=504, reason="deadline", items=()),
    a_copy(3, live_items=(), items=("a",)),
    a_copy(4, items=(), timestamp_ms=START_MS + HOUR_MS),
    a_copy(5, shadow_id="s2"),
)
