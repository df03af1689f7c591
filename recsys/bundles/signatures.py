"""Signatures of bundles (Ed25519, RFC 8032): made by whoever publishes, checked before a load.

A signature is of the manifest, which holds the checksum of every file; so it covers the bundle.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.errors import BundleUntrusted, ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PURPOSE = b"flywheel bundle manifest v1\0"
"""Put before what is signed, so that a signature of anything else is none of a bundle."""
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class BundleSignature:
    """Who signed, and the signature; both base64."""

    public_key: str
    value: str


@dataclass(frozen=True, slots=True)
class BundleTrust:
    """What is demanded of bundles that are loaded, and done to those that are published.

    Args:
        trusted_keys: public keys; None loads whatever is intact.
        signing_key_file: empty signs nothing.
    """

    trusted_keys: frozenset[str] | None = None
    signing_key_file: str = ""


def trust_in(trusted_keys: Iterable[str]) -> frozenset[str]:
    """Public keys, each in its one spelling.

    Raises:
        ConfigError: there is none, or one is no Ed25519 key.
    """
    keys = frozenset(_spelled(key) for key in trusted_keys)
    if not keys:
        raise ConfigError(
            "security.trusted_keys is empty while security.require_signed_bundles is set, "
            "expected the public keys of whoever publishes; make one with 'cluster keys signing'"
        )
    return keys


def sign(bundle_id: str, content_sha256: str, key_file: Path) -> BundleSignature:
    """Sign a manifest.

    Raises:
        ConfigError: the key cannot be read.
    """
    key = read_signing_key(key_file)
    value = key.sign(_statement(bundle_id, content_sha256))
    return BundleSignature(public_key_of(key), base64.b64encode(value).decode())


def check_signature(
    bundle_id: str,
    content_sha256: str,
    signature: BundleSignature | None,
    trusted_keys: frozenset[str],
) -> None:
    """Prove that somebody who is trusted signed the manifest.

    Raises:
        BundleUntrusted: nobody did.
    """
    mend = (
        "expected a signature by one of security.trusted_keys; publish it where "
        "security.signing_key_file is set, or train a new one"
    )
    if signature is None:
        raise BundleUntrusted(f"bundle {bundle_id} is not signed, {mend}")
    if signature.public_key not in trusted_keys:
        raise BundleUntrusted(
            f"bundle {bundle_id} is signed by {signature.public_key[:60]}, who is not trusted, "
            f"{mend}"
        )
    if not _is_of(signature, _statement(bundle_id, content_sha256)):
        raise BundleUntrusted(f"the signature of bundle {bundle_id} is not of this bundle, {mend}")


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key of a PEM file that nobody else may read.

    Raises:
        ConfigError: it is missing, open to others, or no Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    where = f"security.signing_key_file {path}"
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read ({error.strerror}), expected a private key; make one with "
            "'cluster keys signing'"
        ) from error
    if mode & 0o007:
        raise ConfigError(f"{where} is open to every user, expected mode 0600; chmod it")
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where} is no private key in PEM, expected an Ed25519 key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{where} is a key of another kind, expected an Ed25519 key")
    return key


def write_signing_key(path: Path) -> str:
    """Make a private key of mode 0600, durably, and answer its public half.

    Raises:
        ConfigError: the file is there already, or cannot be made.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be made ({error.strerror}), expected a new file; choose another name"
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return public_key_of(key)


def public_key_of(key: Ed25519PrivateKey) -> str:
    """The public half, as `security.trusted_keys` names it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _is_of(signature: BundleSignature, statement: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signature.public_key))
        key.verify(base64.b64decode(signature.value, validate=True), statement)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def _statement(bundle_id: str, content_sha256: str) -> bytes:
    return _PURPOSE + f"{bundle_id}\0{content_sha256}".encode()


def _spelled(key: str) -> str:
    try:
        raw = base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise ConfigError(
            f"security.trusted_keys has '{key[:60]}', expected {_KEY_BYTES} bytes in base64; "
            "'cluster keys signing' prints them"
        )
    return base64.b64encode(raw).decode()
