"""Who asks: the caller that a request's headers show, and where the credential stands in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_BEARER = b"bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose key or token was accepted."""

    name: str
    """The key's id, or the subject of a token behind `jwt:`."""
    scopes: tuple[str, ...]
    rate_per_s: float | None = None
    """None is the rate of the settings."""


def credential_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What a request shows, of `Authorization: Bearer` or `X-API-Key`; None if nothing.

    A header that is no ASCII shows something that nobody gave out.
    """
    shown: bytes | None = None
    for name, value in headers:
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            shown = value[len(_BEARER) :]
            break
        if name == b"x-api-key" and shown is None:
            shown = value
    return None if shown is None else shown.strip().decode("ascii", "replace")
