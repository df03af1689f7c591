"""Certificates of the links: what cannot be used is refused by name, what is renewed is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from recsys.errors import ConfigError
from recsys.link_certificates import LinkCertificates, open_link_certificates, read_link_contexts
from recsys.security_settings import LinkTlsSettings, SecuritySettings
from recsys.settings import ServeSettings, Settings
from tests.tls_files import Authority, Signed


def tls_of(signed: Signed, authority: Authority) -> LinkTlsSettings:
    """The settings of a node."""
    return LinkTlsSettings(
        cert_file=str(signed.cert_file),
        key_file=str(signed.key_file),
        ca_file=str(authority.ca_file),
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The links' own."""
    return Authority(tmp_path)


@pytest.fixture
def tls(authority: Authority) -> LinkTlsSettings:
    """Files of which nothing is wrong."""
    return tls_of(authority.sign("node"), authority)


def refusal(tls: LinkTlsSettings) -> str:
    """Why the files cannot be used."""
    with pytest.raises(ConfigError) as refused:
        read_link_contexts(tls)
    return str(refused.value)


def test_links_are_plain_unless_files_are_named_and_stages_are_linked(tls: LinkTlsSettings) -> None:
    """Off by default, and of no use where stages are called through Serve."""
    assert open_link_certificates(Settings()) is None
    on = SecuritySettings(link_tls=tls)
    assert open_link_certificates(Settings(security=on)) is not None
    by_handle = Settings(security=on, serve=ServeSettings(placement="handle"))
    assert open_link_certificates(by_handle) is None


@pytest.mark.parametrize("name", ["cert_file", "key_file", "ca_file"])
def test_a_file_that_is_not_named_missing_or_no_pem_is_refused_by_name(
    tls: LinkTlsSettings, name: str, tmp_path: Path
) -> None:
    """The message has the setting and what to do."""
    unnamed = refusal(tls.model_copy(update={name: ""}))
    assert f"security.link_tls.{name} is empty" in unnamed
    assert "set all of" in unnamed
    missing = refusal(tls.model_copy(update={name: str(tmp_path / "absent.pem")}))
    assert f"security.link_tls.{name} {tmp_path / 'absent.pem'} cannot be read" in missing
    assert "No such file" in missing
    folder = refusal(tls.model_copy(update={name: str(tmp_path)}))
    assert "Is a directory" in folder
    words = tmp_path / "words.pem"
    words.write_text("no certificate")
    words.chmod(0o600)
    assert f"security.link_tls.{name} {words}" in refusal(tls.model_copy(update={name: str(words)}))


def test_a_key_that_others_may_read_is_refused(tls: LinkTlsSettings) -> None:
    """The group may: Kubernetes gives files to a group."""
    Path(tls.key_file).chmod(0o640)
    read_link_contexts(tls)
    Path(tls.key_file).chmod(0o644)
    assert "open to every user" in refusal(tls)


def test_an_expired_certificate_is_refused_with_its_end(
    authority: Authority, tls: LinkTlsSettings
) -> None:
    """And of one that is valid the end is told."""
    said = refusal(tls_of(authority.sign("old", days=-1.0), authority))
    assert "expired at" in said
    assert said.endswith("replace it")
    short = read_link_contexts(tls_of(authority.sign("short", days=0.5), authority))
    assert short.ends_at < read_link_contexts(tls).ends_at


def test_a_certificate_of_another_authority_is_refused(
    authority: Authority, tls: LinkTlsSettings, tmp_path: Path
) -> None:
    """It would be refused by every other node."""
    other = Authority(tmp_path, "other")
    said = refusal(tls.model_copy(update={"ca_file": str(other.ca_file)}))
    assert "is refused by security.link_tls.ca_file" in said
    both = tmp_path / "both.pem"
    both.write_bytes(other.ca_file.read_bytes() + authority.ca_file.read_bytes())
    read_link_contexts(tls.model_copy(update={"ca_file": str(both)}))


def test_a_key_of_another_certificate_or_with_a_password_is_refused(
    authority: Authority, tls: LinkTlsSettings, tmp_path: Path
) -> None:
    """Nobody is asked for a password at a terminal."""
    other = authority.sign("other")
    said = refusal(tls.model_copy(update={"key_file": str(other.key_file)}))
    assert "is not the key of" in said
    key = load_pem_private_key(Path(tls.key_file).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x" * 8))
    )
    locked.chmod(0o600)
    said = refusal(tls.model_copy(update={"key_file": str(locked)}))
    assert "without a password" in said


def test_renewed_files_are_taken_and_spoiled_ones_are_not(
    authority: Authority, tls: LinkTlsSettings
) -> None:
    """A replica goes on with what it had until the files can be used again."""
    certificates = LinkCertificates(tls)
    first = certificates.contexts()
    assert certificates.contexts() is first
    Path(tls.cert_file).write_text("half a certificate")
    assert certificates.contexts() is first
    Path(tls.cert_file).unlink()
    assert certificates.contexts() is first
    renewed = authority.sign("renewed", days=9.0)
    shutil.copy(renewed.key_file, tls.key_file)
    shutil.copy(renewed.cert_file, tls.cert_file)
    second = certificates.contexts()
    assert second is not first
    assert certificates.contexts() is second
