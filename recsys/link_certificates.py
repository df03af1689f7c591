"""Mutual TLS of the stage links: what both ends of a link are made with, from three files.

Both ends show a certificate of the links' own authority. Names in certificates are not compared,
since nodes come and go with their addresses: which replica answers is proved by its token. Knows
no socket.
"""

from __future__ import annotations

import datetime
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import ConfigError
from recsys.security_settings import LinkTlsSettings
from recsys.settings import Settings

logger = logging.getLogger(__name__)

_SECTION = "security.link_tls"
_FLIGHTS = 8
"""Turns of a handshake at most, in which neither side waits for the other for ever."""


@dataclass(frozen=True, slots=True)
class LinkContexts:
    """What a connection is secured with, by the end that it is at."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    ends_at: datetime.datetime
    """When the first of the certificates of this node ends, in UTC."""


class LinkCertificates:
    """The contexts of the files as they are now: certificates are renewed while replicas live.

    Raises:
        ConfigError: the files cannot be used.
    """

    def __init__(self, settings: LinkTlsSettings) -> None:
        self._settings = settings
        self._stamp = _stamp_of(settings)
        self._contexts = read_link_contexts(settings)

    def contexts(self) -> LinkContexts:
        """Those to connect with; the last ones as long as what replaced them cannot be used."""
        stamp = _stamp_of(self._settings)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._contexts = read_link_contexts(self._settings)
            except ConfigError as error:
                logger.warning("links go on with the certificates they had: %s", error)
        return self._contexts


def open_link_certificates(settings: Settings) -> LinkCertificates | None:
    """The certificates of the links; None where they are plain, or where there are none.

    Raises:
        ConfigError: the files cannot be used.
    """
    tls = settings.security.link_tls
    return LinkCertificates(tls) if tls.is_on and settings.serve.placement == "link" else None


def read_link_contexts(settings: LinkTlsSettings) -> LinkContexts:
    """The contexts of both ends, tried on each other.

    Raises:
        ConfigError: a file is missing or cannot be read, the key is open to others or of another
            certificate, a certificate has ended or is not of the authority.
    """
    texts = {name: _read(name, path) for name, path in settings.model_dump().items()}
    ends_at = min(
        _end_of(name, getattr(settings, name), texts[name]) for name in ("cert_file", "ca_file")
    )
    contexts = LinkContexts(
        _context(settings, ssl.PROTOCOL_TLS_SERVER),
        _context(settings, ssl.PROTOCOL_TLS_CLIENT),
        ends_at,
    )
    try:
        _shake_hands(contexts)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{_SECTION}.cert_file {settings.cert_file} is refused by {_SECTION}.ca_file"
            f" {settings.ca_file} ({_reason(error)}), expected a certificate of that authority for"
            " servers and clients; have it sign one"
        ) from error
    return contexts


def _read(name: str, path: str) -> bytes:
    if not path:
        raise ConfigError(
            f"{_SECTION}.{name} is empty, expected a PEM file; set all of cert_file, key_file and"
            " ca_file, or none"
        )
    try:
        mode = Path(path).stat().st_mode
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{_SECTION}.{name} {path} cannot be read ({error.strerror}), expected a PEM file; put"
            " it there, or let the service's user read it"
        ) from error
    if name == "key_file" and mode & 0o007:
        raise ConfigError(
            f"{_SECTION}.{name} {path} is open to every user, expected mode 0600 or 0640; chmod it"
        )
    return text


def _end_of(name: str, path: str, text: bytes) -> datetime.datetime:
    """When the first of the certificates that are in force ends; an authority has the old beside
    the new while it changes."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise ConfigError(
            f"{_SECTION}.{name} {path} holds no certificate, expected PEM; put one there"
        ) from error
    now = datetime.datetime.now(datetime.UTC)
    live = [c.not_valid_after_utc for c in found if c.not_valid_before_utc <= now]
    if not live:
        begins = found[0].not_valid_before_utc
        raise ConfigError(
            f"{_SECTION}.{name} {path} is valid from {begins:%Y-%m-%d %H:%M} UTC on, expected one"
            " that is valid now; set the clock, or have one made"
        )
    # Of a certificate's chain all count; of authorities the one that lasts.
    ends_at = min(live) if name == "cert_file" else max(live)
    if ends_at <= now:
        raise ConfigError(
            f"{_SECTION}.{name} {path} expired at {ends_at:%Y-%m-%d %H:%M} UTC, expected one that"
            " is valid; replace it"
        )
    return ends_at


def _context(settings: LinkTlsSettings, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a link is never resumed
    try:
        # Without a password of ours OpenSSL would ask for one at the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{_SECTION}.key_file {settings.key_file} is not the key of {settings.cert_file}"
            f" ({_reason(error)}), expected its private key without a password; put both there"
        ) from error
    try:
        context.load_verify_locations(settings.ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{_SECTION}.ca_file {settings.ca_file} holds no authority ({_reason(error)}),"
            " expected PEM; put it there"
        ) from error
    return context


def _shake_hands(contexts: LinkContexts) -> None:
    """Connect the two ends in memory.

    Raises:
        ssl.SSLError: one refuses the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts.client.wrap_bio(to_client, to_server)
    server = contexts.server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_FLIGHTS):
        is_done = True
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                is_done = False
        if is_done:
            return
    raise ssl.SSLError(1, "the handshake does not end")


def _reason(error: OSError) -> str:
    """What OpenSSL has against it, without its place in the source."""
    return getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)


def _stamp_of(settings: LinkTlsSettings) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when one of the files does."""
    return tuple(
        _mark(Path(path)) for path in (settings.cert_file, settings.key_file, settings.ca_file)
    )


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
