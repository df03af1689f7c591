"""The doctor's checks on data directories in good and bad order."""

from __future__ import annotations

import io
import json
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from cluster.__main__ import run
from cluster.data_findings import DATA_CHECKS, check_leftovers, check_stores, reached
from cluster.findings import (
    Finding,
    check_bundles,
    check_data_dir,
    check_lake,
    check_limits,
    check_run,
    check_versions,
    run_check,
    version_findings,
)
from recsys.errors import ConfigError, StoreError
from recsys.settings import Settings
from recsys.stores.control.membership import Member, Membership
from recsys.stores.spool.spool_file import SUFFIX


def free_ports(n_ports: int) -> list[int]:
    """Ports nobody listens on, different from each other."""
    sockets = [socket.socket() for _ in range(n_ports)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def a_place(directory: Path) -> Settings:
    """Settings with an own data directory and free ports."""
    ports = free_ports(6)
    return Settings.model_validate(
        {
            "data_dir": directory,
            "serve": {"port": ports[0]},
            "cluster": {
                "ray_port": ports[1],
                "haproxy_stats_port": ports[2],
                "haproxy_metrics_port": ports[3],
                "fallback_port": ports[4],
                "metrics_port": ports[5],
            },
        }
    )


def levels(findings: list[Finding]) -> dict[str, str]:
    """Subject to level."""
    return {finding.subject: finding.level for finding in findings}


def test_this_environment_meets_its_own_requirements() -> None:
    """What is installed here is what the package asks for."""
    found = list(check_versions(Settings()))
    assert [f for f in found if f.level != "ok"] == []


def test_a_missing_and_an_older_package_fail_with_the_mend() -> None:
    """An exact pin means exactly that; a lower bound means at least."""
    installed = {"exact": "2.60.1", "lower": "3.10.0", "local": "2.13.0+cpu"}
    requirements = [
        "exact[serve]==2.60.0",
        "lower>=3.9",
        "local==2.13.0; extra == 'serve'",
        "gone>=1",
        "tool>=1; extra == 'dev'",
    ]
    found = list(version_findings(requirements, installed.get))
    assert levels(found) == {"exact": "fail", "gone": "fail", "packages": "ok"}
    assert all("make setup" in f.mend for f in found if f.level == "fail")


def test_a_fresh_place_has_nothing_that_fails(tmp_path: Path) -> None:
    """Before the first import, doctor warns and does not fail."""
    settings = a_place(tmp_path / "var")
    checks = (check_data_dir, check_limits, check_run, check_bundles, check_lake, *DATA_CHECKS)
    for check in checks:
        assert "fail" not in {f.level for f in run_check(check, settings)}, check.__name__


def test_a_port_in_use_fails_with_holder_and_setting(tmp_path: Path) -> None:
    """The finding says who holds it."""
    settings = a_place(tmp_path)
    with socket.socket() as server:
        server.bind(("127.0.0.1", settings.serve.port))
        server.listen()
        found = [f for f in check_run(settings) if f.level == "fail"]
    assert len(found) == 1
    assert str(settings.serve.port) in found[0].detail
    assert "FLYWHEEL__SERVE__PORT" in found[0].mend


def test_a_damaged_store_fails_and_a_sound_one_is_ok(tmp_path: Path) -> None:
    """A file that is no SQLite file is named."""
    settings = Settings(data_dir=tmp_path)
    connection = sqlite3.connect(settings.feature_path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    settings.log_path.write_bytes(b"not a database, but long enough to look at" * 50)
    found = levels(list(check_stores(settings)))
    assert found == {
        "events.sqlite": "fail",
        "features.sqlite": "ok",
        "control.sqlite": "ok",
        "evidence.sqlite": "ok",
    }


def test_a_broken_bundle_fails_by_name(tmp_path: Path) -> None:
    """A bundle without a readable manifest is named, not skipped."""
    settings = Settings(data_dir=tmp_path)
    broken = tmp_path / "bundles" / "b1"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    found = list(check_bundles(settings))
    assert levels(found) == {"bundle b1": "fail"}


def test_a_lake_table_with_a_torn_commit_fails(tmp_path: Path) -> None:
    """The last commit decides whether the table can be read."""
    settings = Settings(data_dir=tmp_path)
    for name, last in (("engagements", '{"commitInfo": {}}\n'), ("impressions", '{"comm')):
        log = tmp_path / "lake" / name / "_delta_log"
        log.mkdir(parents=True)
        (log / "00000000000000000000.json").write_text('{"protocol": {}}\n')
        (log / "00000000000000000001.json").write_text(last)
    found = list(check_lake(settings))
    assert levels(found) == {
        "lake table engagements": "ok",
        "lake table impressions": "fail",
    }
    assert found[0].detail == "version 1"


def test_what_is_left_over_is_told_with_the_mend(tmp_path: Path) -> None:
    """Spooled events, a damaged file set aside, dead replicas and gaps are warnings."""
    settings = Settings(data_dir=tmp_path)
    assert list(check_leftovers(settings)) == []
    (tmp_path / "spool" / "g1").mkdir(parents=True)
    (tmp_path / "spool" / "g1" / f"0{SUFFIX}").write_bytes(b"x" * 2 * 1024**2)
    (tmp_path / "events.sqlite.corrupt-20261122T000000-000").write_bytes(b"torn")
    (tmp_path / "events.sqlite.corrupt-20261122T000000-000-wal").write_bytes(b"")
    membership = Membership(settings.control_url)
    now_ms = time.time_ns() // 1_000_000
    membership.beat(Member("archiver", "dead", now_ms - 60_000, n_missed=5, missed_ms=now_ms))
    membership.close()
    found = list(check_leftovers(settings))
    assert [(finding.level, finding.subject) for finding in found] == [
        ("warn", "spool"),
        ("warn", "set aside"),
        ("warn", "worker replicas"),
        ("warn", "gap"),
    ]
    assert "2.0 MiB" in found[0].detail
    assert "archiver missed 5 records" in found[3].detail
    assert all(finding.mend for finding in found)


def test_a_server_that_is_away_fails_with_the_mend_and_wrong_settings_with_their_own() -> None:
    """A setting that does not fit says itself what to do."""

    def away() -> io.StringIO:
        raise StoreError("nobody answers at 127.0.0.1:9092")

    def misfit() -> io.StringIO:
        raise ConfigError("the topic has 3 partitions, expected 4; set events.n_partitions to 3")

    assert reached("kafka", io.StringIO, lambda _: "4 partitions", "start it").level == "ok"
    assert reached("kafka", away, str, "start it").mend == "start it"
    found = reached("kafka", misfit, str, "start it")
    assert (found.level, found.mend) == ("fail", "")


def test_a_check_that_cannot_be_made_is_a_finding() -> None:
    """One unreadable thing does not hide the others."""

    def check_something(settings: Settings) -> list[Finding]:
        raise StoreError("away")

    assert run_check(check_something, Settings()) == [Finding("fail", "something", "away")]


def test_doctor_answers_with_one_document_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure is exit code 1, and every finding has level, subject, detail and mend."""
    monkeypatch.chdir(tmp_path)
    for name, port in zip(
        ("SERVE__PORT", "CLUSTER__RAY_PORT", "CLUSTER__METRICS_PORT"), free_ports(3), strict=True
    ):
        monkeypatch.setenv(f"FLYWHEEL__{name}", str(port))
    monkeypatch.setenv("FLYWHEEL__SERVE__INGRESS", "proxy")
    assert run(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sound"] is True
    assert set(document["findings"][0]) == {"level", "subject", "detail", "mend"}
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "events.sqlite").write_bytes(b"torn" * 1000)
    assert run(["doctor"]) == 1
    assert "events.sqlite" in capsys.readouterr().out
