"""What a request for a slate says, in a body or in a query string, or everything wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from recsys.errors import RequestError
from serve_app.http.field_checks import FieldReader, decode_object, request_error

MAX_K = 200
DEFAULT_K = 20
MAX_EXCLUDED = 1000
MAX_DEADLINE_MS = 60_000
MAX_CONTEXT_ENTRIES = 32
MAX_CONTEXT_BYTES = 256
_FIELDS = frozenset({"user_id", "k", "context", "exclude_item_ids", "explain", "deadline_ms"})
_CONTEXT_PREFIX = "context."
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """A valid request for one slate."""

    user_id: str
    k: int = DEFAULT_K
    context: dict[str, str] = field(default_factory=dict)
    exclude_item_ids: tuple[str, ...] = ()
    explain: bool = False
    deadline_ms: int | None = None
    """None is the deadline of the settings."""


def parse_recommend_body(body: bytes) -> RecommendRequest:
    """The request of a JSON body.

    Raises:
        RequestError: 400 for malformed JSON and wrong types, 422 for values out of their limits.
    """
    return _request(decode_object(body))


def parse_recommend_query(query: bytes) -> RecommendRequest:
    """The request of a query string, percent-encoded and without its question mark.

    `exclude_item_ids` may be repeated; `context.NAME=VALUE` is an entry of the context.

    Raises:
        RequestError: 400 for wrong types, 422 for values out of their limits.
    """
    try:
        pairs = parse_qsl(
            query.decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_EXCLUDED + 100,
        )
    except ValueError as error:
        raise RequestError(f"the query string cannot be read: {error}", status=400) from error
    fields: dict[str, object] = {}
    context: dict[str, str] = {}
    excluded: list[str] = []
    for name, value in pairs:
        if name.startswith(_CONTEXT_PREFIX):
            context[name.removeprefix(_CONTEXT_PREFIX)] = value
        elif name == "exclude_item_ids":
            excluded.append(value)
        elif name in {"k", "deadline_ms"}:
            fields[name] = _whole_number(value)
        elif name == "explain":
            fields[name] = _BOOLEANS.get(value.lower(), value)
        else:
            fields[name] = value
    return _request({"context": context, "exclude_item_ids": excluded, **fields})


def _request(fields: dict[str, object]) -> RecommendRequest:
    reader = FieldReader(fields)
    reader.refuse_unknown(_FIELDS)
    user_id = reader.text("user_id", required=True)
    k = reader.integer("k", 1, MAX_K)
    context = reader.text_map("context", max_count=MAX_CONTEXT_ENTRIES, max_bytes=MAX_CONTEXT_BYTES)
    excluded = reader.texts("exclude_item_ids", max_count=MAX_EXCLUDED)
    explain = reader.boolean("explain")
    deadline_ms = reader.integer("deadline_ms", 1, MAX_DEADLINE_MS)
    if reader.problems or user_id is None:
        raise request_error(reader.problems)
    return RecommendRequest(
        user_id=user_id,
        k=DEFAULT_K if k is None else k,
        context=context,
        exclude_item_ids=excluded,
        explain=bool(explain),
        deadline_ms=deadline_ms,
    )


def _whole_number(text: str) -> object:
    """The number a query value stands for; anything else stays text, for the reader to refuse."""
    digits = text.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 18
    return int(text) if is_number else text
