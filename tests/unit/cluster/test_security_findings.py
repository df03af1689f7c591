"""The doctor on keys, signatures, links: whatever can be wrong has its finding and its mend."""

from __future__ import annotations

import datetime
import random
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.findings import Finding
from cluster.keys.key_writer import KeyWriter
from cluster.security_findings import (
    check_keys,
    check_links,
    check_signing,
    key_findings,
    link_finding,
    open_door_finding,
)
from recsys.bundles.signatures import write_signing_key
from recsys.keys import new_key
from recsys.security_settings import SecuritySettings
from recsys.settings import ServeSettings, Settings
from tests.tls_files import Authority

NOW_MS = 1_760_000_000_000
DAY_MS = 86_400_000
KEY = new_key(["read"], NOW_MS - DAY_MS, random.Random(3).randbytes, client="shop").key


def one(findings: list[Finding]) -> tuple[str, str, str]:
    """Level, text and mend of the only finding."""
    (found,) = findings
    return found.level, found.detail, found.mend


def signing(**security: object) -> tuple[str, str, str]:
    """What is said of these settings."""
    chosen = SecuritySettings.model_validate(security)
    return one(list(check_signing(Settings(security=chosen))))


def test_a_key_file_is_there_private_and_a_key(tmp_path: Path) -> None:
    """A missing file, one that everybody reads, and one that is no key, fail with the reason."""
    path = tmp_path / "signing.pem"
    level, detail, mend = signing(signing_key_file=str(path))
    assert (level, "cannot be read" in detail, "cluster keys signing" in mend) == (
        "fail",
        True,
        True,
    )
    write_signing_key(path)
    assert signing(signing_key_file=str(path))[0] == "ok"
    path.chmod(0o644)
    level, detail, mend = signing(signing_key_file=str(path))
    assert (level, "open to every user" in detail, mend) == ("fail", True, "chmod it")
    path.chmod(0o600)
    path.write_text("no key")
    assert signing(signing_key_file=str(path))[0] == "fail"


def test_signatures_that_are_demanded_need_somebody_to_trust(tmp_path: Path) -> None:
    """Nobody trusted, no key at all, a stranger's own key: each is a failure."""
    own = write_signing_key(tmp_path / "own.pem")
    other = write_signing_key(tmp_path / "other.pem")
    level, detail, mend = signing(require_signed_bundles=True)
    assert (level, "trusted_keys is empty" in detail) == ("fail", True)
    assert "cluster keys signing" in mend
    assert signing(require_signed_bundles=True, trusted_keys=["short"])[0] == "fail"
    with_file = {"signing_key_file": str(tmp_path / "own.pem"), "require_signed_bundles": True}
    assert "whom nobody trusts" in signing(**with_file, trusted_keys=[other])[1]
    assert signing(**with_file, trusted_keys=[other, own])[0] == "ok"
    assert signing(trusted_keys=[own])[0] == "warn"
    assert signing()[0] == "ok"


def test_keys_that_are_asked_for_are_there_and_live_on() -> None:
    """None at all, none alive, one that ends soon; a key without an end is well."""
    assert one(list(key_findings([], NOW_MS)))[0] == "warn"
    assert one(list(key_findings([replace(KEY, revoked_ms=NOW_MS - 1)], NOW_MS)))[0] == "warn"
    ending = replace(KEY, expires_ms=NOW_MS + 2 * DAY_MS)
    level, detail, mend = one(list(key_findings([ending, KEY], NOW_MS)))
    assert (level, "expires in 2.0 days" in detail) == ("warn", True)
    assert "--client shop" in mend
    assert one(list(key_findings([KEY], NOW_MS))) == ("ok", "1 live", "")


@pytest.mark.parametrize(
    ("host", "level"), [("127.0.0.1", "ok"), ("localhost", "ok"), ("0.0.0.0", "warn")]
)
def test_an_open_door_is_told_where_others_reach_it(host: str, level: str) -> None:
    """On a laptop nothing has to be done."""
    assert open_door_finding(host).level == level


def test_the_control_store_is_asked_for_its_keys(tmp_path: Path) -> None:
    """By the settings: an open host asks for keys by itself."""
    settings = Settings(data_dir=tmp_path, serve=ServeSettings(host="0.0.0.0"))
    assert one(list(check_keys(settings)))[1] == "requests need one and there is none"
    writer = KeyWriter(settings.control_url)
    writer.add(KEY, NOW_MS)
    writer.close()
    assert one(list(check_keys(settings))) == ("ok", "1 live", "")


def links(placement: str = "link", **files: str) -> list[tuple[str, str, str]]:
    """What is said of links with these files, each as level, text and mend."""
    security = SecuritySettings.model_validate({"link_tls": files})
    serve = ServeSettings.model_validate({"placement": placement})
    found = check_links(Settings(security=security, serve=serve))
    return [(finding.level, finding.detail, finding.mend) for finding in found]


def test_certificates_of_links_are_there_valid_and_of_one_authority(tmp_path: Path) -> None:
    """Off is well; a missing, an unreadable or an expired file fails with what to do."""
    ((level, detail, _),) = links()
    assert (level, "plain text" in detail) == ("ok", True)
    assert links("fused") == []
    authority = Authority(tmp_path)
    signed, old = authority.sign("node"), authority.sign("old", days=-1.0)
    files = {
        "cert_file": str(signed.cert_file),
        "key_file": str(signed.key_file),
        "ca_file": str(authority.ca_file),
    }
    ((level, detail, mend),) = links(**files)
    assert (level, "ends in 1.0 days" in detail) == ("warn", True)
    assert "without a restart" in mend
    assert [found[0] for found in links("handle", **files)] == ["warn", "warn"]
    for wrong, words, to_do in (
        ({"key_file": ""}, "security.link_tls.key_file is empty", "or none"),
        ({"ca_file": str(tmp_path / "absent.pem")}, "cannot be read (No such file", "put it there"),
        ({"cert_file": str(tmp_path)}, "cannot be read (Is a directory", "put it there"),
        ({"cert_file": str(old.cert_file)}, "expired at", "replace it"),
    ):
        ((level, detail, mend),) = links(**{**files, **wrong})
        assert (level, words in detail, to_do in mend) == ("fail", True, True), (detail, mend)


def test_certificates_that_last_are_well() -> None:
    """Their end is told."""
    now = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    found = link_finding(now + datetime.timedelta(days=90), now)
    assert (found.level, found.detail) == ("ok", "mutual TLS, certificates end on 2026-05-30")
