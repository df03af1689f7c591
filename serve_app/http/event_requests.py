"""What a request that changes the log says: engagements or a catalogue change, or its problems.

Pure: the clock and the ids are passed in. Limits are those of `recsys.events`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from recsys.errors import RequestError
from recsys.events import (
    MAX_EVENTS_PER_REQUEST,
    MAX_FUTURE_MS,
    MIN_TIMESTAMP_MS,
    CatalogueChange,
    Engagement,
)
from serve_app.http.field_checks import FieldReader, Problem, decode_object, request_error, shown

MAX_KIND_BYTES = 64
MAX_POSITION = 2**31 - 1
MAX_TITLE_BYTES = 1024
MAX_CATEGORIES = 32
# Works are older than 1990, and announced before they appear.
_EARLIEST_CREATED_MS = int(datetime(1000, 1, 1, tzinfo=UTC).timestamp() * 1000)
_LATEST_CREATED_MS = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000)
_ITEM_FIELDS = frozenset({"title", "categories", "creator", "created_at"})
_EVENT_FIELDS = frozenset({
    "event_id", "kind", "user_id", "item_id", "timestamp", "request_id", "position", "value",
})  # fmt: skip


def parse_events(body: bytes, now_ms: int, new_id: Callable[[], str]) -> list[Engagement]:
    """The engagements of a request body, in its order.

    Args:
        now_ms: the receiving clock; also the time of an event that names none.
        new_id: makes the id of an event that brings none.

    Raises:
        RequestError: status 400, with every problem and the index of its event.
    """
    fields = decode_object(body)
    envelope = FieldReader(fields)
    envelope.refuse_unknown(frozenset({"events"}))
    entries = fields.get("events")
    if not isinstance(entries, list):
        found = "missing" if entries is None else shown(entries)
        envelope.problems.append(Problem("/events", f"{found}, expected a list of events", True))
    elif not 1 <= len(entries) <= MAX_EVENTS_PER_REQUEST:
        expected = f"expected 1 to {MAX_EVENTS_PER_REQUEST}; send them in several requests"
        envelope.problems.append(Problem("/events", f"{len(entries)} events, {expected}", True))
    if envelope.problems or not isinstance(entries, list):
        error = request_error(envelope.problems)
        raise RequestError(str(error), status=400, problems=error.problems)

    events: list[Engagement] = []
    problems: list[dict[str, object]] = []
    for index, entry in enumerate(entries):
        parsed = _parse_event(entry, index, now_ms, new_id)
        if isinstance(parsed, Engagement):
            events.append(parsed)
        else:
            problems += [
                {"index": index, "pointer": problem.pointer, "detail": problem.detail}
                for problem in parsed
            ]
    if problems:
        n_bad = len(entries) - len(events)
        first = f"{problems[0]['pointer']}: {problems[0]['detail']}"
        detail = f"{n_bad} of {len(entries)} events are wrong and none was stored; first {first}"
        raise RequestError(detail, status=400, problems=problems)
    return events


def parse_item(
    item_id: str, body: bytes, now_ms: int, new_id: Callable[[], str]
) -> CatalogueChange:
    """The change that puts an item: the body replaces all its fields.

    Raises:
        RequestError: 400 for malformed JSON and wrong types, 422 for values out of their limits.
    """
    reader = FieldReader(decode_object(body) if body.strip() else {})
    reader.refuse_unknown(_ITEM_FIELDS)
    checked_id = FieldReader({"item_id": item_id})
    checked_id.text("item_id", required=True)
    title = reader.text("title", max_bytes=MAX_TITLE_BYTES, may_be_empty=True)
    categories = reader.texts("categories", max_count=MAX_CATEGORIES)
    creator = reader.text("creator", may_be_empty=True)
    created_ms = reader.time_ms("created_at", _EARLIEST_CREATED_MS, _LATEST_CREATED_MS)
    problems = checked_id.problems + reader.problems
    if problems:
        raise request_error(problems)
    return CatalogueChange(
        event_id=new_id(),
        item_id=item_id,
        timestamp_ms=now_ms,
        title=title or "",
        categories=categories,
        creator=creator or "",
        created_ms=created_ms,
    )


def parse_item_delete(item_id: str, now_ms: int, new_id: Callable[[], str]) -> CatalogueChange:
    """The change that takes an item out of the catalogue.

    Raises:
        RequestError: 422 for an id out of its limits.
    """
    reader = FieldReader({"item_id": item_id})
    reader.text("item_id", required=True)
    if reader.problems:
        raise request_error(reader.problems)
    return CatalogueChange(event_id=new_id(), item_id=item_id, timestamp_ms=now_ms, deleted=True)


def _parse_event(
    entry: object, index: int, now_ms: int, new_id: Callable[[], str]
) -> Engagement | list[Problem]:
    pointer = f"/events/{index}"
    if not isinstance(entry, dict):
        return [Problem(pointer, f"{shown(entry)}, expected an object", is_malformed=True)]
    reader = FieldReader(entry, pointer)
    reader.refuse_unknown(_EVENT_FIELDS)
    event_id = reader.text("event_id")
    kind = reader.text("kind", required=True, max_bytes=MAX_KIND_BYTES)
    user_id = reader.text("user_id", required=True)
    item_id = reader.text("item_id", required=True)
    timestamp_ms = reader.time_ms("timestamp", MIN_TIMESTAMP_MS, now_ms + MAX_FUTURE_MS)
    request_id = reader.text("request_id")
    position = reader.integer("position", 0, MAX_POSITION)
    value = reader.number("value")
    if reader.problems or kind is None or user_id is None or item_id is None:
        return reader.problems
    return Engagement(
        event_id=event_id or new_id(),
        kind=kind,
        user_id=user_id,
        item_id=item_id,
        timestamp_ms=now_ms if timestamp_ms is None else timestamp_ms,
        received_at_ms=now_ms,
        origin="api",
        request_id=request_id,
        position=position,
        value=value,
    )
