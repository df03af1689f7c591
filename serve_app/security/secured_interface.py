"""What the lock adds to the OpenAPI document: how to show a key, and what is refused."""

from __future__ import annotations

from typing import Any

from serve_app.security.access import scope_of

Json = dict[str, Any]

REFUSALS = {
    401: "No key, or one that is unknown, expired or revoked",
    403: "The key lacks the scope of this path",
    429: "The key has used up its rate; retry after `Retry-After` seconds",
}
SIZE_REFUSALS = {414: "Path and query too long", 431: "Too many or too long header fields"}
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key or a provider's token"},
    "keyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def with_security(document: Json, *, demands_keys: bool) -> Json:
    """The document with the refusals of each operation, and its keys where any are demanded."""
    paths = {
        path: {
            verb: _secured(operation, scope_of(path) if demands_keys else None)
            for verb, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    if not demands_keys:
        return {**document, "paths": paths}
    components = {**document["components"], "securitySchemes": _SCHEMES}
    return {**document, "paths": paths, "components": components}


def _secured(operation: Json, scope: str | None) -> Json:
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    refusals = SIZE_REFUSALS if scope is None else {**REFUSALS, **SIZE_REFUSALS}
    added = {
        str(status): {
            "description": description,
            "content": {"application/problem+json": problem},
        }
        for status, description in refusals.items()
    }
    secured = {**operation, "responses": {**operation["responses"], **added}}
    if scope is not None:
        secured["security"] = [{name: []} for name in _SCHEMES]
        secured["description"] = f"Needs a key with the scope `{scope}`."
    return secured
