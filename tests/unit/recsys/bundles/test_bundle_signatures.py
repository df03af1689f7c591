"""Signed bundles: whose are loaded, what a signature covers, and what is refused before a load."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from recsys.bundles.bundle import MANIFEST_NAME, parse_manifest, read_manifest, sign_bundle
from recsys.bundles.manifest_text import render
from recsys.bundles.registry import Registry, open_registry
from recsys.bundles.signatures import (
    BundleTrust,
    check_signature,
    read_signing_key,
    trust_in,
    write_signing_key,
)
from recsys.errors import BundleCorrupt, BundleUntrusted, ConfigError
from recsys.security_settings import SecuritySettings
from recsys.settings import Settings
from tests.plain_bundles import a_bundle


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    """A signing key's file and its public half."""
    path = tmp_path / "signing.pem"
    return path, write_signing_key(path)


def changed(directory: Path, **values: Any) -> None:
    """Change fields of a manifest and make its own checksum right, as whoever may write can."""
    path = directory / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    path.write_bytes(render({**document, **values}))


def refusal(directory: Path, trusted: str) -> str:
    """Why a bundle is not loaded; empty if it would be."""
    manifest = read_manifest(directory)
    try:
        check_signature(
            manifest.bundle_id, manifest.content_sha256, manifest.signature, trust_in([trusted])
        )
    except BundleUntrusted as error:
        return str(error)
    return ""


def test_a_signed_bundle_is_trusted_and_signing_changes_nothing_else(
    tmp_path: Path, key: tuple[Path, str]
) -> None:
    """What is signed is what was there before it was signed."""
    before = a_bundle(tmp_path / "b1")
    assert "is not signed" in refusal(tmp_path / "b1", key[1])
    after = sign_bundle(tmp_path / "b1", key[0])
    assert after.content_sha256 == before.content_sha256
    assert after.files == before.files
    assert refusal(tmp_path / "b1", key[1]) == ""
    assert sign_bundle(tmp_path / "b1", key[0]) == after


def test_another_signer_is_not_trusted(tmp_path: Path, key: tuple[Path, str]) -> None:
    """Also where its signature is right, and where the trusted name is put beside it."""
    a_bundle(tmp_path / "b1")
    stranger = write_signing_key(tmp_path / "stranger.pem")
    signed = sign_bundle(tmp_path / "b1", tmp_path / "stranger.pem")
    assert refusal(tmp_path / "b1", stranger) == ""
    assert "who is not trusted" in refusal(tmp_path / "b1", key[1])
    assert signed.signature is not None
    changed(tmp_path / "b1", signature={"public_key": key[1], "value": signed.signature.value})
    assert "not of this bundle" in refusal(tmp_path / "b1", key[1])


@pytest.mark.parametrize(
    "change",
    [
        {"bundle_id": "b2"},
        {"n_items": 4},
        {"files": {"a": {"sha256": "0" * 64, "size": 1}}},
        {"lineage": {}},
        {"field_of_a_later_release": 1},
        {"content_sha256": "0" * 64},
    ],
)
def test_whatever_changes_in_a_signed_manifest_ends_its_signature(
    tmp_path: Path, key: tuple[Path, str], change: dict[str, Any]
) -> None:
    """Fields of a later release included; the manifest's own checksum tells nothing."""
    a_bundle(tmp_path / "b1")
    sign_bundle(tmp_path / "b1", key[0])
    changed(tmp_path / "b1", **change)
    assert "not of this bundle" in refusal(tmp_path / "b1", key[1])


def test_the_checksum_that_is_signed_is_never_read_from_the_manifest(
    tmp_path: Path, key: tuple[Path, str]
) -> None:
    """A forger would write there what an honest signature is of."""
    honest = a_bundle(tmp_path / "b1")
    signed = sign_bundle(tmp_path / "b1", key[0])
    assert signed.signature is not None
    changed(tmp_path / "b1", n_items=9, content_sha256=honest.content_sha256)
    found = read_manifest(tmp_path / "b1")
    assert found.signature == signed.signature
    assert found.content_sha256 != honest.content_sha256


@pytest.mark.parametrize(
    "signature",
    ["", "x", [], {"public_key": "k"}, {"public_key": 1, "value": 2}, {"value": "v"}],
)
def test_a_signature_of_another_shape_is_a_corrupt_manifest(tmp_path: Path, signature: Any) -> None:
    """It cannot be told from damage."""
    a_bundle(tmp_path / "b1")
    changed(tmp_path / "b1", signature=signature)
    with pytest.raises(BundleCorrupt, match="wrong type"):
        parse_manifest((tmp_path / "b1" / MANIFEST_NAME).read_bytes())


def test_a_registry_that_demands_signatures_refuses_before_a_file_is_fetched(
    tmp_path: Path, key: tuple[Path, str]
) -> None:
    """Where publishing signs, what is published is fetched, from a bucket too."""
    for url in (str(tmp_path / "bundles"), f"memory://{tmp_path.name}/bundles"):
        open_to_all = Registry(url)
        a_bundle(tmp_path / "plain", "plain")
        open_to_all.publish(tmp_path / "plain")
        trust = BundleTrust(trust_in([key[1]]), str(key[0]))
        demanding = Registry(url, trust)
        cache = tmp_path / f"cache-{len(url)}"
        with pytest.raises(BundleUntrusted, match="bundle plain is not signed"):
            demanding.fetch("plain", cache)
        assert not cache.exists()
        assert open_to_all.fetch("plain", cache).is_dir()

        a_bundle(tmp_path / "good", "good")
        assert demanding.publish(tmp_path / "good").signature is not None
        directory = demanding.fetch("good", cache)
        assert read_manifest(directory).signature is not None
        a_bundle(tmp_path / "other", "other")
        with pytest.raises(BundleUntrusted, match="not signed"):
            Registry(url, BundleTrust(trust_in([key[1]]))).publish(tmp_path / "other")
        assert not open_to_all.exists("other")


def test_settings_that_demand_signatures_need_somebody_to_trust(tmp_path: Path) -> None:
    """A key that is none is named."""
    security = SecuritySettings(require_signed_bundles=True)
    with pytest.raises(ConfigError, match=r"security\.trusted_keys is empty"):
        open_registry(Settings(data_dir=tmp_path, security=security))
    for wrong in ("", "abc", base64.b64encode(b"x" * 31).decode(), "ä"):
        with pytest.raises(ConfigError, match="expected 32 bytes in base64"):
            trust_in([wrong])


def test_a_private_key_that_others_can_read_or_of_another_kind_is_refused(
    tmp_path: Path, key: tuple[Path, str]
) -> None:
    """And one that is there is never overwritten."""
    assert key[0].stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="expected a new file"):
        write_signing_key(key[0])
    key[0].chmod(0o604)
    with pytest.raises(ConfigError, match="open to every user"):
        read_signing_key(key[0])
    other = tmp_path / "other.pem"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_signing_key(other)
    other.write_text("-----BEGIN PRIVATE KEY-----\nnothing\n-----END PRIVATE KEY-----\n")
    other.chmod(0o600)
    with pytest.raises(ConfigError, match="no private key in PEM"):
        read_signing_key(other)
