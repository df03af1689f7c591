"""API keys: how one is drawn, what is stored of it, and which key a request shows.

A key is 256 random bits, so its plain SHA-256 tells nobody the key and needs no slow hash. Pure:
clock and randomness are passed in; where keys are kept is `recsys.stores.control.key_tables`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from recsys.errors import ConfigError

SCOPES = ("read", "events", "admin")
"""What a key may do: ask for slates, send events, change the catalogue. None includes another."""
TOKEN_PREFIX = "fw_"
MAX_LIVE_KEYS = 2
"""Live keys of one client: the old and the new one while it changes over."""
SECRET_BYTES = 32
_ID_BYTES = 6
_TOKEN = re.compile(r"fw_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is stored of a key; times in milliseconds since 1970."""

    key_id: str
    client: str
    """Whose it is; at most `MAX_LIVE_KEYS` of one client live."""
    scopes: tuple[str, ...]
    digest: str = field(repr=False)
    """Sha256 of the whole token, 64 hexadecimal digits."""
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    rate_per_s: float | None = None
    """None is the rate of the settings."""

    def is_live(self, now_ms: int) -> bool:
        """Whether it opens anything now."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just drawn: the only moment at which its token is known."""

    key: ApiKey
    token: str = field(repr=False)


def new_key(
    scopes: Iterable[str],
    now_ms: int,
    random_bytes: Callable[[int], bytes],
    *,
    client: str | None = None,
    expires_ms: int | None = None,
    rate_per_s: float | None = None,
) -> NewKey:
    """Draw a key.

    Args:
        client: None lets the key stand alone, under its own id.

    Raises:
        ConfigError: a scope is unknown, none is given, or the client's name is none.
    """
    chosen = tuple(scope for scope in SCOPES if scope in set(scopes))
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not chosen:
        raise ConfigError(
            f"scopes {unknown or 'missing'}, expected some of {', '.join(SCOPES)}; "
            "name each with --scope"
        )
    if client is not None and not _CLIENT.fullmatch(client):
        raise ConfigError(
            f"client {client!r} is no name, expected 1 to 64 letters, digits, '.', '_' or '-'"
        )
    key_id = random_bytes(_ID_BYTES).hex()
    secret = base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    token = f"{TOKEN_PREFIX}{key_id}_{secret}"
    key = ApiKey(
        key_id=key_id,
        client=client or key_id,
        scopes=chosen,
        digest=digest_of(token),
        created_ms=now_ms,
        expires_ms=expires_ms,
        rate_per_s=rate_per_s,
    )
    return NewKey(key, token)


def digest_of(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_key(token: str, keys: Mapping[str, ApiKey], now_ms: int) -> ApiKey | None:
    """The live key that a request shows, compared in constant time; None if it shows none.

    Args:
        keys: by key id.
    """
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    key = keys.get(found[1])
    stored = _NO_DIGEST if key is None else key.digest
    is_same = hmac.compare_digest(digest_of(token), stored)
    return key if is_same and key is not None and key.is_live(now_ms) else None
