"""Errors as HTTP: the status, the headers and the RFC 9457 document of each."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from recsys.errors import (
    BundleError,
    DeadlineExceeded,
    Overloaded,
    RecsysError,
    RequestError,
    StoreError,
)
from serve_app.http.http_exchange import HttpReply
from serve_app.security.refusals import AccessRefused

PROBLEM_TYPE = b"application/problem+json"
RETRY_AFTER_S = 1


class NotReady(Overloaded):
    """The gateway cannot answer yet: no plan, or a bundle of the plan is not resident."""


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, DeadlineExceeded):
        return HTTPStatus.GATEWAY_TIMEOUT
    if isinstance(error, Overloaded | StoreError | BundleError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.INTERNAL_SERVER_ERROR


def reason_of(error: Exception) -> str:
    """The error in a word, for counters and outcomes."""
    words: tuple[tuple[type[Exception], str], ...] = (
        (NotReady, "not ready"),
        (Overloaded, "shed"),
        (DeadlineExceeded, "deadline"),
        (RequestError, "bad request"),
        (StoreError, "store"),
        (BundleError, "bundle"),
    )
    return next((word for kind, word in words if isinstance(error, kind)), "internal")


def problem_document(error: Exception) -> bytes:
    """The RFC 9457 body of an error; an unforeseen one tells the caller nothing of the inside."""
    status = status_of(error)
    detail = str(error) if isinstance(error, RecsysError) else "the server failed unexpectedly"
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
    }
    if isinstance(error, RequestError) and error.problems:
        document["errors"] = error.problems
    return msgspec.json.encode(document)


def problem_headers(error: Exception) -> list[tuple[bytes, bytes]]:
    """Headers an error adds to its response."""
    if isinstance(error, AccessRefused):
        return list(error.headers)
    if isinstance(error, Overloaded):
        return [(b"retry-after", str(error.retry_after_s).encode())]
    if status_of(error) == HTTPStatus.SERVICE_UNAVAILABLE:
        return [(b"retry-after", str(RETRY_AFTER_S).encode())]
    return []


def problem_reply(error: Exception) -> HttpReply:
    """The reply to a request that raised."""
    return HttpReply(
        status_of(error), problem_document(error), PROBLEM_TYPE, problem_headers(error)
    )


def not_allowed(method: str, allowed: tuple[str, ...]) -> HttpReply:
    """The reply to a method that a path does not take; it names those it does."""
    names = ", ".join(sorted(allowed))
    error = RequestError(f"this path does not take {method}; use {names}", status=405)
    reply = problem_reply(error)
    return HttpReply(reply.status, reply.body, reply.content_type, [(b"allow", names.encode())])
