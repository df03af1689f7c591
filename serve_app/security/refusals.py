"""Requests that are refused for who asks or how: 401, 403, 414, 429 and 431, with their headers.

No message holds any part of what was shown as a key.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from recsys.errors import RequestError

_CHALLENGE = b'Bearer realm="flywheel"'


class AccessRefused(RequestError):
    """The caller may not ask this, or not now.

    Args:
        headers: what the response carries beside the problem.
    """

    def __init__(
        self, detail: str, *, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(detail, status=status)
        self.headers = headers


def no_key() -> AccessRefused:
    """401: nothing was shown."""
    return AccessRefused(
        "this request needs a key; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
        status=HTTPStatus.UNAUTHORIZED,
        headers=((b"www-authenticate", _CHALLENGE),),
    )


def wrong_key(reason: str = "it is unknown, expired or revoked") -> AccessRefused:
    """401: what was shown opens nothing."""
    return AccessRefused(
        f"the key was not accepted: {reason}; ask whoever gives out keys for a new one",
        status=HTTPStatus.UNAUTHORIZED,
        headers=((b"www-authenticate", _CHALLENGE + b', error="invalid_token"'),),
    )


def scope_missing(needed: str, held: tuple[str, ...]) -> AccessRefused:
    """403: the key is good, and not for this."""
    challenge = _CHALLENGE + f', error="insufficient_scope", scope="{needed}"'.encode()
    return AccessRefused(
        f"the key has scope {', '.join(held) or 'none'}, this path needs {needed}; "
        f"use a key that was made with --scope {needed}",
        status=HTTPStatus.FORBIDDEN,
        headers=((b"www-authenticate", challenge),),
    )


def too_often(rate_per_s: float, wait_s: float) -> AccessRefused:
    """429: the key has used up its rate."""
    seconds = max(1, math.ceil(wait_s))
    return AccessRefused(
        f"the key may ask {rate_per_s:g} times a second; try again in {seconds} s",
        status=HTTPStatus.TOO_MANY_REQUESTS,
        headers=((b"retry-after", str(seconds).encode()),),
    )


def headers_too_large(
    n_fields: int, n_bytes: int, max_fields: int, max_bytes: int
) -> AccessRefused:
    """431: more header than anybody needs."""
    return AccessRefused(
        f"the request has {n_fields} header fields of {n_bytes} bytes, at most {max_fields} of "
        f"{max_bytes} bytes are read; send fewer",
        status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    )


def path_too_long(n_bytes: int, max_bytes: int) -> AccessRefused:
    """414: put it into the body."""
    return AccessRefused(
        f"path and query have {n_bytes} bytes, at most {max_bytes} are read; send what is long in "
        "the body of a POST",
        status=HTTPStatus.REQUEST_URI_TOO_LONG,
    )
