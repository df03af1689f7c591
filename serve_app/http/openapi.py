"""The OpenAPI 3.1 document of the HTTP interface: what `/openapi.json` answers."""

from __future__ import annotations

from typing import Any

import msgspec

from recsys.events import MAX_EVENTS_PER_REQUEST, MAX_ID_BYTES
from recsys.settings import ServeSettings
from serve_app.answers import AnswerBody
from serve_app.http.caller_deadline import DEADLINE_HEADER, MAX_DIGITS
from serve_app.http.recommend_requests import (
    DEFAULT_K,
    MAX_CONTEXT_ENTRIES,
    MAX_DEADLINE_MS,
    MAX_EXCLUDED,
    MAX_K,
)

Json = dict[str, Any]

VERSION = "1"
REF_TEMPLATE = "#/components/schemas/{name}"
ID: Json = {"type": "string", "minLength": 1, "description": f"1 to {MAX_ID_BYTES} bytes of UTF-8"}
TIME: Json = {
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}],
    "description": "ISO 8601, or milliseconds since 1970",
}

PROBLEMS = {
    400: "Malformed request",
    404: "Nothing at this path",
    405: "The path does not take this method",
    413: "Body too large",
    422: "Valid JSON with bad values",
    503: "Shed, or not ready yet; retry after `Retry-After` seconds",
    504: "The deadline passed",
}
RECOMMEND_EXAMPLE = {"user_id": "u1", "k": 10, "context": {"device": "phone"}}
EVENTS_EXAMPLE = {
    "events": [{"kind": "click", "user_id": "u1", "item_id": "i1", "timestamp": 1_700_000_000_000}]
}
ITEM_EXAMPLE = {"title": "A title", "categories": ["drama"], "creator": "somebody"}


def openapi_document(settings: ServeSettings) -> Json:
    """The whole document; limits are those in force."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Flywheel",
            "version": VERSION,
            "description": (
                "Recommendations for a user, the events that teach them, and the catalogue. "
                "Every response carries x-request-id; every error is an RFC 9457 problem."
            ),
        },
        "paths": {
            "/v1/recommend": {"post": _recommend_post(settings), "get": _recommend_get()},
            "/v1/events": {"post": _events(settings)},
            "/v1/items/{item_id}": {"put": _put_item(settings), "delete": _delete_item()},
            "/healthz": {"get": _plain("Whether the process lives", "It lives")},
            "/readyz": {"get": _plain("Whether it can answer by the whole plan", "It can", 503)},
            "/openapi.json": {"get": _plain("This document", "The document")},
            "/docs": {"get": _docs()},
        },
        "components": {"schemas": _schemas()},
    }


def _recommend_post(settings: ServeSettings) -> Json:
    return {
        "operationId": "recommend",
        "summary": "What this user should see now; an unknown user gets an answer too",
        "parameters": [_deadline_header()],
        "requestBody": _body(
            _ref("RecommendRequest"), RECOMMEND_EXAMPLE, f"at most {settings.max_body_bytes} bytes"
        ),
        "responses": _responses({200: ("The slate", _ref("AnswerBody"))}, 400, 413, 422, 503, 504),
    }


def _recommend_get() -> Json:
    k = {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": DEFAULT_K}
    deadline = {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS}
    excluded = {"type": "array", "items": {"type": "string"}}
    return {
        "operationId": "recommendByQuery",
        "summary": "The same with everything in the query",
        "parameters": [
            _query("user_id", ID, "Whom to recommend to", required=True),
            _query("k", k, "Items wanted"),
            _query("exclude_item_ids", excluded, "Never answer these; may be repeated"),
            _query("explain", {"type": "boolean"}, "Say why each item stands where it stands"),
            _query("deadline_ms", deadline, "Give up after so many milliseconds"),
            _query("context.NAME", {"type": "string"}, "An entry of the context, by its name"),
            _deadline_header(),
        ],
        "responses": _responses({200: ("The slate", _ref("AnswerBody"))}, 400, 422, 503, 504),
    }


def _events(settings: ServeSettings) -> Json:
    accepted = {
        "type": "object",
        "required": ["accepted", "event_ids"],
        "properties": {
            "accepted": {"type": "integer"},
            "event_ids": {"type": "array", "items": {"type": "string"}},
        },
    }
    return {
        "operationId": "logEvents",
        "summary": "Engagements of users; answered once they are durable, all of them or none",
        "requestBody": _body(
            _ref("Events"), EVENTS_EXAMPLE, f"at most {settings.max_events_body_bytes} bytes"
        ),
        "responses": _responses({202: ("Durable", accepted)}, 400, 413, 503),
    }


def _put_item(settings: ServeSettings) -> Json:
    return {
        "operationId": "putItem",
        "summary": "Put an item into the catalogue; in force within seconds",
        "parameters": [_item_id()],
        "requestBody": _body(
            _ref("Item"), ITEM_EXAMPLE, f"at most {settings.max_body_bytes} bytes"
        ),
        "responses": _responses({202: ("Durable", _ref("ItemChange"))}, 400, 413, 422, 503),
    }


def _delete_item() -> Json:
    return {
        "operationId": "deleteItem",
        "summary": "Take an item out; it is never recommended again",
        "parameters": [_item_id()],
        "responses": _responses({202: ("Durable", _ref("ItemChange"))}, 422, 503),
    }


def _plain(summary: str, description: str, *problems: int) -> Json:
    return {
        "summary": summary,
        "responses": _responses({200: (description, {"type": "object"})}, *problems),
    }


def _docs() -> Json:
    page = {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}}
    return {"summary": "This document as a page", "responses": {"200": page}}


def _schemas() -> Json:
    _, schemas = msgspec.json.schema_components([AnswerBody], ref_template=REF_TEMPLATE)
    return {
        **schemas,
        "RecommendRequest": _recommend_request(),
        "Events": _events_schema(),
        "Item": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "title": {"type": "string"},
                "categories": {"type": "array", "items": {"type": "string"}},
                "creator": {"type": "string"},
                "created_at": TIME,
            },
        },
        "ItemChange": {
            "type": "object",
            "properties": {"item_id": ID, "event_id": ID, "deleted": {"type": "boolean"}},
        },
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "errors": {"type": "array", "items": {"type": "object"}},
            },
        },
    }


def _events_schema() -> Json:
    event = {
        "type": "object",
        "required": ["kind", "user_id", "item_id"],
        "additionalProperties": False,
        "properties": {
            "event_id": ID,
            "kind": {"type": "string", "minLength": 1},
            "user_id": ID,
            "item_id": ID,
            "timestamp": TIME,
            "request_id": ID,
            "position": {"type": "integer", "minimum": 0},
            "value": {"type": "number"},
        },
    }
    events = {"type": "array", "minItems": 1, "maxItems": MAX_EVENTS_PER_REQUEST, "items": event}
    return {"type": "object", "required": ["events"], "properties": {"events": events}}


def _recommend_request() -> Json:
    return {
        "type": "object",
        "required": ["user_id"],
        "additionalProperties": False,
        "properties": {
            "user_id": ID,
            "k": {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": DEFAULT_K},
            "context": {
                "type": "object",
                "maxProperties": MAX_CONTEXT_ENTRIES,
                "additionalProperties": {"type": "string"},
            },
            "exclude_item_ids": {"type": "array", "maxItems": MAX_EXCLUDED, "items": ID},
            "explain": {"type": "boolean", "default": False},
            "deadline_ms": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
        },
    }


def _responses(good: dict[int, tuple[str, Json]], *problems: int) -> Json:
    answers: Json = {
        str(status): {
            "description": description,
            "content": {"application/json": {"schema": schema}},
        }
        for status, (description, schema) in good.items()
    }
    for status in problems:
        answers[str(status)] = {
            "description": PROBLEMS[status],
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
    return answers


def _body(schema: Json, example: Json, description: str) -> Json:
    return {
        "required": True,
        "description": description,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _query(name: str, schema: Json, description: str, *, required: bool = False) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": schema,
    }


def _deadline_header() -> Json:
    moment = {"type": "string", "pattern": f"^[0-9]{{1,{MAX_DIGITS}}}$"}
    return {
        "name": DEADLINE_HEADER.decode(),
        "in": "header",
        "required": False,
        "description": "The moment until which the caller waits, in milliseconds since 1970; the "
        "earlier of it and deadline_ms holds, and one that has passed is answered 504",
        "schema": moment,
    }


def _item_id() -> Json:
    return {
        "name": "item_id",
        "in": "path",
        "required": True,
        "description": "The item",
        "schema": ID,
    }


def _ref(name: str) -> Json:
    return {"$ref": REF_TEMPLATE.format(name=name)}
