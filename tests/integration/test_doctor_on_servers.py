"""`cluster doctor` beside real servers: sound, and wrong in each way that happens."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from cluster.findings import Finding
from cluster.stores.bucket_findings import check_object_store
from cluster.stores.server_findings import check_postgres, check_redis_limits
from recsys.bundles.bucket_objects import StoreObjects, open_objects
from recsys.settings import Settings
from tests.feature_backends import with_redis
from tests.postgres_server import PostgresServer, a_postgres_server
from tests.redis_server import a_redis_server
from tests.registry_places import s3 as s3
from tests.registry_places import s3_process as s3_process
from tests.s3_server import S3Server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    """A server for this file."""
    with a_postgres_server() as server:
        yield server


def told(found: list[Finding]) -> dict[str, list[tuple[str, str]]]:
    """Level and detail of what was found, by subject."""
    subjects: dict[str, list[tuple[str, str]]] = {}
    for one in found:
        subjects.setdefault(one.subject, []).append((one.level, one.detail))
    return subjects


def test_a_sound_postgres_is_ok_and_a_wrong_one_says_why(postgres: PostgresServer) -> None:
    """Of a server of the tests: a power cut would destroy it, which is said."""
    url = postgres.new_database()
    found = told(list(check_postgres(Settings(control_store_url=url))))
    assert found == {"control store": [("warn", "runs with fsync off: a power cut destroys it")]}
    missing = url.replace("/test", "/nosuch")
    away = "postgresql+psycopg://ann:hunter2@127.0.0.1:1/control"
    settings = Settings(control_store_url=missing, evidence_store_url=away)
    by_subject = {
        subject: [one for one in check_postgres(settings) if one.subject == subject]
        for subject in ("control store", "evidence store")
    }
    assert "make the database" in by_subject["control store"][-1].mend
    assert [one.level for one in by_subject["evidence store"]] == ["warn", "fail"]
    assert "start the server" in by_subject["evidence store"][-1].mend
    words = " ".join(one.detail + one.mend for one in check_postgres(settings))
    assert "hunter2" not in words
    assert "\n" not in words


def test_a_sound_bucket_is_ok_and_a_wrong_one_says_why(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind of the probe."""
    place = s3.new_url()
    settings = Settings(registry_url=f"{place}/bundles", lake_url=f"{place}/lake")
    assert [one.level for one in check_object_store(settings)] == ["ok", "ok"]
    assert open_objects(place).names() == []
    nowhere = Settings(registry_url="s3://nosuchbucket/bundles")
    assert "make the bucket" in next(iter(check_object_store(nowhere))).mend
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = next(iter(check_object_store(settings)))
    assert (refused.level, "AWS_SECRET_ACCESS_KEY" in refused.mend) == ("fail", True)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    assert "AWS_ALLOW_HTTP" in next(iter(check_object_store(settings))).mend


def test_a_bucket_that_overwrites_what_a_condition_forbids_is_refused(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits of one version would become one."""
    monkeypatch.setattr(StoreObjects, "create", StoreObjects.write)
    found = next(iter(check_object_store(Settings(registry_url=s3.new_url()))))
    assert (found.level, "two commits become one" in found.detail) == ("fail", True)


def test_a_redis_that_forgets_is_refused(tmp_path: Path) -> None:
    """By its own settings."""
    with a_redis_server(tmp_path / "sound") as server:
        settings = with_redis(Settings(data_dir=tmp_path), server.url)
        assert [one for one in check_redis_limits(settings) if one.level == "fail"] == []
    arguments = ["--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru"]
    with a_redis_server(tmp_path / "lossy", arguments=arguments) as server:
        settings = with_redis(Settings(data_dir=tmp_path), server.url)
        failed = [one for one in check_redis_limits(settings) if one.level == "fail"]
        assert [one.mend for one in failed] == ["set maxmemory-policy noeviction"]
