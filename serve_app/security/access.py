"""The lock on the HTTP door: headers within limits, a caller with the scope of the path, its rate.

Costs no read of a store: keys and the provider's keys are read behind the requests, and the last
good ones are kept while a store is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from recsys.errors import Overloaded, RecsysError
from recsys.keys import TOKEN_PREFIX, ApiKey, find_key
from recsys.security_settings import SecuritySettings, demands_keys
from recsys.settings import Settings
from serve_app.security import refusals
from serve_app.security.callers import Caller, credential_of
from serve_app.security.rate_limits import RateLimits

if TYPE_CHECKING:
    from serve_app.security.provider_tokens import ProviderTokens

logger = logging.getLogger("ray.serve")

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
"""What anybody may ask: probes have no key, and the interface is no secret."""
_SCOPES = {"/v1/recommend": "read", "/v1/events": "events"}
ReadKeys = Callable[[], list[ApiKey]]


def scope_of(path: str) -> str | None:
    """The scope that a path needs: admin for whatever is not named; None is open to anybody."""
    if path in OPEN_PATHS:
        return None
    return _SCOPES.get(path, "admin")


class Access:
    """Lets requests in; not for use from several threads, but for `refresh`.

    Args:
        read_keys: reads the keys of the control store; None asks for no key.
        tokens: accepts tokens of an identity provider; None takes none.
        poll_s: how often both are read anew.
    """

    def __init__(
        self,
        settings: SecuritySettings,
        read_keys: ReadKeys | None = None,
        tokens: ProviderTokens | None = None,
        *,
        poll_s: float = 1.0,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._read_keys = read_keys
        self._tokens = tokens
        self._poll_s = poll_s
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._rates = RateLimits(settings.rate_burst)
        self._keys: Mapping[str, ApiKey] | None = None
        self._stopped = threading.Event()
        self._is_away = False

    @property
    def demands_keys(self) -> bool:
        """Whether requests need a key."""
        return self._read_keys is not None

    def check(self, scope: Mapping[str, Any]) -> Caller | None:
        """Let a request in; None is somebody who needs no key.

        Raises:
            AccessRefused: 401, 403, 414, 429 or 431.
            Overloaded: no keys could be read yet.
        """
        self._check_sizes(scope)
        if self._read_keys is None:
            return None
        needed = scope_of(scope["path"])
        if needed is None:
            return None
        caller = self._caller(scope)
        if needed not in caller.scopes:
            raise refusals.scope_missing(needed, caller.scopes)
        rate = self._settings.rate_per_s if caller.rate_per_s is None else caller.rate_per_s
        if rate > 0:
            wait_s = self._rates.take(caller.name, rate, self._monotonic())
            if wait_s > 0:
                raise refusals.too_often(rate, wait_s)
        return caller

    def start(self) -> None:
        """Read the keys, then again every `poll_s` in a thread of its own until `stop`."""
        if self._read_keys is not None:
            self.refresh()
            threading.Thread(target=self._loop, name="access", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def refresh(self) -> None:
        """Read keys and the provider's keys once; what cannot be read stays as it was."""
        if self._read_keys is None:
            return
        try:
            self._keys = {key.key_id: key for key in self._read_keys()}
            self._is_away = False
        except (RecsysError, OSError) as error:
            if not self._is_away:
                logger.warning("API keys cannot be read, keeping the last ones: %s", error)
            self._is_away = True
        if self._tokens is not None:
            self._tokens.refresh()

    def _loop(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                self.refresh()
            except Exception:
                logger.exception("reading the API keys failed; trying again")

    def _caller(self, scope: Mapping[str, Any]) -> Caller:
        shown = credential_of(scope["headers"])
        if shown is None:
            raise refusals.no_key()
        if self._tokens is not None and not shown.startswith(TOKEN_PREFIX):
            return self._tokens.accept(shown, self._clock_ms())
        if self._keys is None:
            raise Overloaded("the API keys could not be read yet; try again later")
        key = find_key(shown, self._keys, self._clock_ms())
        if key is None:
            raise refusals.wrong_key()
        return Caller(key.key_id, key.scopes, key.rate_per_s)

    def _check_sizes(self, scope: Mapping[str, Any]) -> None:
        limits = self._settings
        headers = scope["headers"]
        n_bytes = 0
        for name, value in headers:
            n_bytes += len(name) + len(value)
        if len(headers) > limits.max_headers or n_bytes > limits.max_header_bytes:
            raise refusals.headers_too_large(
                len(headers), n_bytes, limits.max_headers, limits.max_header_bytes
            )
        n_bytes = len(scope["path"]) + len(scope.get("query_string", b""))
        if n_bytes > limits.max_header_bytes:
            raise refusals.path_too_long(n_bytes, limits.max_header_bytes)


def open_access(settings: Settings) -> Access:
    """The lock that the settings ask for.

    Raises:
        ConfigError: tokens of a provider are wanted and their settings do not do.
    """
    if not demands_keys(settings.security, settings.serve.host):
        return Access(settings.security)
    from recsys.stores.control.key_tables import KeyReader

    tokens = None
    if settings.security.jwt.jwks:
        from serve_app.security.provider_tokens import ProviderTokens

        tokens = ProviderTokens(settings.security.jwt)
    return Access(
        settings.security,
        KeyReader(settings.control_url).read,
        tokens,
        poll_s=settings.serve.plan_poll_s,
    )
