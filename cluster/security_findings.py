"""The doctor's checks of keys, signatures and links: who may ask, and whose bundles are loaded.

Reads the control store, key files and certificates; changes nothing and shows no secret.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.findings import Check, Finding
from recsys.errors import ConfigError, StoreError
from recsys.security_settings import demands_keys, is_loopback

if TYPE_CHECKING:
    from recsys.keys import ApiKey
    from recsys.security_settings import SecuritySettings
    from recsys.settings import Settings

_DAY_MS = 24 * 3600 * 1000
SOON_DAYS = 7
"""A key or certificate that expires within so many days is told."""


def check_keys(settings: Settings) -> Iterable[Finding]:
    """Whether requests need a key, and whether somebody has one that lives on."""
    from recsys.stores.control.key_tables import KeyReader

    if not demands_keys(settings.security, settings.serve.host):
        yield open_door_finding(settings.serve.host)
        return
    with closing(KeyReader(settings.control_url)) as reader:
        try:
            keys = reader.read()
        except StoreError:
            return  # The control store's own check says so.
    yield from key_findings(keys, time.time_ns() // 1_000_000)


def open_door_finding(host: str) -> Finding:
    """What it means that requests need no key, where the service listens."""
    if is_loopback(host):
        return Finding("ok", "API keys", "none is asked for; only this machine reaches the service")
    detail = f"none is asked for, and other machines reach the service at {host}"
    return Finding("warn", "API keys", detail, "set security.keys to auto or required")


def key_findings(keys: Sequence[ApiKey], now_ms: int) -> Iterable[Finding]:
    """What is wrong with the keys of a service that asks for one."""
    live = [key for key in keys if key.is_live(now_ms)]
    if not live:
        mend = "make one with 'cluster keys create --scope read --scope events'"
        yield Finding("warn", "API keys", "requests need one and there is none", mend)
        return
    ending = [
        key
        for key in live
        if key.expires_ms is not None and key.expires_ms - now_ms < SOON_DAYS * _DAY_MS
    ]
    for key in ending:
        left = (key.expires_ms - now_ms) / _DAY_MS if key.expires_ms is not None else 0.0
        detail = f"{key.key_id} of {key.client} expires in {left:.1f} days"
        mend = f"hand over a new one: 'cluster keys create --client {key.client}'"
        yield Finding("warn", "API keys", detail, mend)
    if not ending:
        yield Finding("ok", "API keys", f"{len(live)} live")


def check_signing(settings: Settings) -> Iterable[Finding]:
    """The private key that signs, the public ones that are trusted, and whether they fit."""
    from recsys.bundles.signatures import public_key_of, read_signing_key, trust_in

    security = settings.security
    own: str | None = None
    trusted: frozenset[str] = frozenset()
    try:
        if security.signing_key_file:
            own = public_key_of(read_signing_key(Path(security.signing_key_file)))
        if security.require_signed_bundles or security.trusted_keys:
            trusted = trust_in(security.trusted_keys)
    except ConfigError as error:
        what, _, mend = str(error).rpartition("; ")
        yield Finding("fail", "signatures", what or mend, mend if what else "")
        return
    yield from signing_findings(security, own, trusted)


def signing_findings(
    security: SecuritySettings, own: str | None, trusted: frozenset[str]
) -> Iterable[Finding]:
    """What does not fit.

    Args:
        own: the public half of the key that signs here; None where nothing is signed.
        trusted: public keys whose bundles are loaded.
    """
    if trusted and not security.require_signed_bundles:
        yield Finding(
            "warn", "signatures", "trusted_keys are named, and unsigned bundles load all the same",
            "set security.require_signed_bundles = true",
        )  # fmt: skip
    elif security.require_signed_bundles and own is not None and own not in trusted:
        yield Finding(
            "fail", "signatures", f"bundles are signed here by {own}, whom nobody trusts",
            "add it to security.trusted_keys, or publish with the key of one that is there",
        )  # fmt: skip
    elif security.require_signed_bundles:
        signs = "signs here" if own is not None else "nothing is signed here"
        yield Finding("ok", "signatures", f"demanded of {len(trusted)} trusted keys; {signs}")
    else:
        made = "bundles are signed" if own is not None else "none is made"
        yield Finding("ok", "signatures", f"none is demanded; {made}")


def check_links(settings: Settings) -> Iterable[Finding]:
    """Whether stage links are encrypted, and whether their certificates can be used and last."""
    from recsys.link_certificates import read_link_contexts

    tls = settings.security.link_tls
    if not tls.is_on:
        if settings.serve.placement == "link":
            yield Finding("ok", "stage links", "plain text; keep nodes on a private network")
        return
    if settings.serve.placement != "link":
        detail = f"none is made with serve.placement = {settings.serve.placement!r}"
        mend = "security.link_tls encrypts links only; see docs/security.md"
        yield Finding("warn", "stage links", detail, mend)
    try:
        contexts = read_link_contexts(tls)
    except ConfigError as error:
        what, _, mend = str(error).rpartition("; ")
        yield Finding("fail", "stage links", what, mend)
        return
    yield link_finding(contexts.ends_at, datetime.now(UTC))


def link_finding(ends_at: datetime, now: datetime) -> Finding:
    """How long the certificates of the links last."""
    left_days = (ends_at - now) / timedelta(days=1)
    if left_days < SOON_DAYS:
        detail = f"a certificate ends in {left_days:.1f} days"
        mend = "put new files in place of security.link_tls; they are read without a restart"
        return Finding("warn", "stage links", detail, mend)
    return Finding("ok", "stage links", f"mutual TLS, certificates end on {ends_at:%Y-%m-%d}")


SECURITY_CHECKS: tuple[Check, ...] = (check_keys, check_signing, check_links)
"""In the order they are shown, before those of servers."""
