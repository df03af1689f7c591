"""Settings of who may ask what, and of which bundles are trusted. Part of the tree of `settings`.

Nothing here is a secret: private keys are named by file, API keys are stored as checksums.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field

from recsys.settings_branch import Branch, Positive


class JwtSettings(Branch):
    """Tokens of an identity provider, taken beside API keys where `jwks` is set."""

    jwks: str = ""
    """The provider's public keys: a file, or an https URL; empty takes no tokens."""
    issuer: str = ""
    """What `iss` must be."""
    audience: str = ""
    """What `aud` must hold."""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    """Signatures that are taken; of RS256, PS256, ES256 and EdDSA."""
    scope_claim: str = "scope"
    """The claim that names scopes, as a list or separated by spaces."""
    leeway_s: Annotated[int, Field(ge=0, le=300)] = 30
    """Clocks of the provider and of a gateway may differ by so much."""
    refresh_s: Positive = 300
    """How often the provider's keys are read anew."""


class LinkTlsSettings(Branch):
    """Mutual TLS of the stage links: all three files, PEM, or none. Read anew once replaced."""

    cert_file: str = ""
    """The certificate that this node's gateways and stages show; of `ca_file`'s authority."""
    key_file: str = ""
    """Its private key, without a password."""
    ca_file: str = ""
    """Certificates of the links' own authority: whoever it signs for passes as a node."""

    @property
    def is_on(self) -> bool:
        """Whether links are encrypted."""
        return bool(self.cert_file or self.key_file or self.ca_file)


class SecuritySettings(Branch):
    """Who may ask what, how often, and which bundles may be loaded."""

    keys: Literal["auto", "required", "off"] = "auto"
    """Whether requests need a key: `auto` wherever `serve.host` is not a loopback address."""
    rate_per_s: Annotated[float, Field(ge=0)] = 0.0
    """Requests per second of one key in one gateway replica, where the key has no rate of its own;
    0 is no limit."""
    rate_burst: Positive = 100
    """Requests that a key may make at once after a pause."""
    max_headers: Positive = 64
    """Header fields of one request at most."""
    max_header_bytes: Annotated[int, Field(ge=1024)] = 16_384
    """Size of all header fields of one request, and of its path with the query, in bytes."""
    require_signed_bundles: bool = False
    """Refuse to load a bundle that none of `trusted_keys` has signed."""
    trusted_keys: tuple[str, ...] = ()
    """Public Ed25519 keys, base64, whose bundles are loaded."""
    signing_key_file: str = ""
    """A private Ed25519 key (PEM) that signs what is published here; empty signs nothing."""
    jwt: JwtSettings = JwtSettings()
    link_tls: LinkTlsSettings = LinkTlsSettings()


def demands_keys(security: SecuritySettings, host: str) -> bool:
    """Whether requests to a service bound to `host` need a key."""
    if security.keys != "auto":
        return security.keys == "required"
    return not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
