"""What a `PUT` or `DELETE` of `/v1/items/{item_id}` says: a catalogue change, or its problems."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from recsys.events import CatalogueChange
from serve_app.field_checks import FieldReader, decode_object, request_error

MAX_TITLE_BYTES = 1024
MAX_CATEGORIES = 32
_FIELDS = frozenset({"title", "categories", "creator", "created_at"})
_EARLIEST_CREATED_MS = int(datetime(1000, 1, 1, tzinfo=UTC).timestamp() * 1000)
_LATEST_CREATED_MS = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""Works are older than 1990, and announced before they appear."""


def parse_item(
    item_id: str, body: bytes, now_ms: int, new_id: Callable[[], str]
) -> CatalogueChange:
    """The change that puts an item: the body replaces all its fields.

    Raises:
        RequestError: 400 for malformed JSON and wrong types, 422 for values out of their limits.
    """
    reader = FieldReader(decode_object(body) if body.strip() else {})
    reader.refuse_unknown(_FIELDS)
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


def parse_deletion(item_id: str, now_ms: int, new_id: Callable[[], str]) -> CatalogueChange:
    """The change that takes an item out of the catalogue.

    Raises:
        RequestError: 422 for an id out of its limits.
    """
    reader = FieldReader({"item_id": item_id})
    reader.text("item_id", required=True)
    if reader.problems:
        raise request_error(reader.problems)
    return CatalogueChange(event_id=new_id(), item_id=item_id, timestamp_ms=now_ms, deleted=True)
