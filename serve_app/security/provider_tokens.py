"""Tokens (JWT, RFC 7519) of an identity provider: signature, issuer, audience, time, scopes.

The algorithm must be one of the settings and fit the provider's key, so neither `none` nor a
public key taken for a shared secret passes. A token once verified is remembered by its checksum
until it expires or the provider's keys change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt

from recsys.errors import ConfigError
from recsys.keys import SCOPES
from recsys.security_settings import JwtSettings, is_loopback
from serve_app.security import refusals
from serve_app.security.callers import Caller

logger = logging.getLogger("ray.serve")

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures with a public key; nothing that a shared secret signs."""
MAX_TOKEN_BYTES = 8_192
MAX_REMEMBERED = 4_096
MAX_JWKS_BYTES = 1_048_576
FETCH_TIMEOUT_S = 5.0
UNKNOWN_KEY_PAUSE_S = 10.0
"""A token of an unknown key has the provider's keys read anew, at most so often."""


class ProviderTokens:
    """Accepts tokens; `refresh` may be called from another thread.

    Args:
        fetch: reads the provider's keys, as JSON.

    Raises:
        ConfigError: issuer or audience is missing, or an algorithm is none that is taken.
    """

    def __init__(
        self,
        settings: JwtSettings,
        fetch: Callable[[str], bytes] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(settings)
        self._settings = settings
        self._fetch = fetch_jwks if fetch is None else fetch
        self._monotonic = monotonic
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._due_s = float("-inf")
        self._read_s = float("-inf")
        self._remembered: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    def refresh(self) -> None:
        """Read the provider's keys if it is time; the last good ones stay where it fails."""
        now_s = self._monotonic()
        if now_s < self._due_s:
            return
        self._read_s = now_s
        self._due_s = now_s + self._settings.refresh_s
        try:
            found = parse_jwks(self._fetch(self._settings.jwks))
        except Exception as error:
            self._due_s = now_s + min(UNKNOWN_KEY_PAUSE_S, self._settings.refresh_s)
            logger.warning(
                "the provider's keys (security.jwt.jwks) cannot be read, keeping the last ones: %s",
                type(error).__name__,
            )
            return
        self._keys, self._remembered = found, OrderedDict()

    def accept(self, token: str, now_ms: int) -> Caller:
        """Who shows the token.

        Raises:
            AccessRefused: 401, it is not to be believed; the message says why, not what.
        """
        mark = hashlib.sha256(token.encode()).digest()
        remembered = self._remembered
        known = remembered.get(mark)
        if known is not None and now_ms < known[1] * 1000:
            return known[0]
        claims = self._claims(token)
        caller = Caller(f"jwt:{claims.get('sub', '')}", scopes_of(claims, self._settings))
        remembered[mark] = (caller, float(claims["exp"]) + self._settings.leeway_s)
        if len(remembered) > MAX_REMEMBERED:
            remembered.popitem(last=False)
        return caller

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_BYTES:
            raise refusals.wrong_key(f"a token has at most {MAX_TOKEN_BYTES} bytes")
        try:
            key = self._key_of(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(self._settings.algorithms),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise refusals.wrong_key(_reason(error)) from error
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise refusals.wrong_key("it cannot be read as a token") from error
        return claims

    def _key_of(self, token: str) -> jwt.PyJWK:
        kid = jwt.get_unverified_header(token).get("kid")
        key = self._keys.get(kid)
        if key is None:
            # The provider may have changed its keys; they are read behind the requests.
            if self._monotonic() - self._read_s > UNKNOWN_KEY_PAUSE_S:
                self._due_s = float("-inf")
            raise jwt.InvalidKeyError
        return key


def scopes_of(claims: dict[str, Any], settings: JwtSettings) -> tuple[str, ...]:
    """The scopes that a token's claim names, of those there are."""
    named = claims.get(settings.scope_claim, ())
    words = named.split() if isinstance(named, str) else named
    return tuple(scope for scope in SCOPES if isinstance(words, list | tuple) and scope in words)


def parse_jwks(text: bytes) -> dict[str | None, jwt.PyJWK]:
    """The signing keys of a JSON Web Key Set, by id; keys that sign nothing of ours are left out.

    Raises:
        ConfigError: it is no such set, or holds no usable key.
    """
    try:
        entries = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError("security.jwt.jwks is no JSON Web Key Set, expected 'keys'") from error
    found: dict[str | None, jwt.PyJWK] = {}
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if key.algorithm_name in ALGORITHMS:
            found[key.key_id] = key
    if not found:
        raise ConfigError(
            f"security.jwt.jwks holds no usable key, expected one of {', '.join(ALGORITHMS)}"
        )
    return found


def fetch_jwks(location: str) -> bytes:
    """The key set of a file or an https URL, at most 1 MiB; redirects are not followed.

    Raises:
        OSError: the file cannot be read.
        ConfigError: the answer is too long.
        httpx.HTTPError: the provider does not answer as it should.
    """
    if "://" not in location:
        return Path(location).read_bytes()
    import httpx

    text = b""
    with httpx.stream("GET", location, timeout=FETCH_TIMEOUT_S, follow_redirects=False) as answer:
        answer.raise_for_status()
        for part in answer.iter_bytes():
            text += part
            if len(text) > MAX_JWKS_BYTES:
                raise ConfigError(f"security.jwt.jwks is longer than {MAX_JWKS_BYTES} bytes")
    return text


def _check(settings: JwtSettings) -> None:
    for name in ("issuer", "audience"):
        if not getattr(settings, name):
            raise ConfigError(
                f"security.jwt.{name} is empty, expected what tokens carry; a token of anybody "
                "would pass without it"
            )
    unknown = sorted(set(settings.algorithms) - set(ALGORITHMS))
    if unknown or not settings.algorithms:
        raise ConfigError(
            f"security.jwt.algorithms has {unknown or 'nothing'}, expected some of "
            f"{', '.join(ALGORITHMS)}"
        )
    scheme, separator, rest = settings.jwks.partition("://")
    host = rest.partition("/")[0].rpartition(":")[0] or rest.partition("/")[0]
    if separator and scheme != "https" and not (scheme == "http" and is_loopback(host)):
        raise ConfigError(
            f"security.jwt.jwks begins with {scheme}://, expected a file or an https URL"
        )


def _reason(error: jwt.PyJWTError) -> str:
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (jwt.ExpiredSignatureError, "the token has expired"),
        (jwt.ImmatureSignatureError, "the token is not valid yet"),
        (jwt.InvalidAudienceError, "the token is for another audience"),
        (jwt.InvalidIssuerError, "the token is of another issuer"),
        (jwt.MissingRequiredClaimError, "the token lacks exp, iss or aud"),
        (jwt.InvalidAlgorithmError, "the token is signed by an algorithm that is not taken"),
        (jwt.InvalidKeyError, "the token is signed by a key that is not the provider's"),
        (jwt.InvalidSignatureError, "its signature does not fit"),
    )
    return next((text for kind, text in reasons if isinstance(error, kind)), "it is no token")
