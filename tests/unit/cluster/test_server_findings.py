"""What the doctor says of servers, by what they say of themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.stores.bucket_findings import S3_MENDS
from cluster.stores.server_findings import (
    POSTGRES_MENDS,
    PostgresFacts,
    check_postgres,
    mend_of,
    n_replicas,
    postgres_findings,
    redis_findings,
)
from recsys.settings import Settings

SOUND = PostgresFacts(16, 100, {"fsync": "on", "server_encoding": "UTF8"}, False, True, 1_000)


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, "ok", "Postgres 16"),
        ({"version": 12}, "fail", "expected at least 14"),
        ({"is_standby": True}, "fail", "takes no writes"),
        ({"is_secured": False}, "warn", "clear text"),
        ({"max_connections": 20}, "warn", "10 replicas want 50"),
        ({"clock_ms": 10_000}, "warn", "+9.0 s"),
        ({"settings": {"fsync": "off", "server_encoding": "UTF8"}}, "warn", "power cut"),
        ({"settings": {"fsync": "on", "server_encoding": "LATIN1"}}, "fail", "LATIN1"),
    ],
)
def test_a_server_is_found_sound_or_told_what_is_wrong(
    changes: dict[str, object], level: str, says: str
) -> None:
    """One finding each, with its mend where there is something to mend."""
    facts = replace(SOUND, **changes)  # type: ignore[arg-type]
    (found,) = postgres_findings("control store", facts, 10, 1_000)
    assert (found.level, says in found.detail) == (level, True)
    assert bool(found.mend) == (level != "ok")


@pytest.mark.parametrize(
    ("reason", "mends", "says"),
    [
        ('FATAL: password authentication failed for user "ann"', POSTGRES_MENDS, "PGPASSWORD"),
        ("failed to resolve host 'postgres'", POSTGRES_MENDS, "DNS"),
        ("connection failed: Connection refused", POSTGRES_MENDS, "start the server"),
        ('FATAL: database "x" does not exist', POSTGRES_MENDS, "make the database"),
        ("SSL error: certificate verify failed", POSTGRES_MENDS, "sslrootcert"),
        ("server does not support SSL, but SSL was required", POSTGRES_MENDS, "TLS on"),
        ("<Code>SignatureDoesNotMatch</Code>", S3_MENDS, "AWS_SECRET_ACCESS_KEY"),
        ("<Code>NoSuchBucket</Code>", S3_MENDS, "make the bucket"),
        ("HTTP error: error sending request", S3_MENDS, "AWS_ENDPOINT_URL"),
        ("something else", S3_MENDS, "otherwise"),
    ],
)
def test_a_refusal_has_its_mend(reason: str, mends: tuple[tuple[str, str], ...], says: str) -> None:
    """By what its text contains."""
    assert says in mend_of(reason, mends, "otherwise")


def test_a_server_that_forgets_features_fails() -> None:
    """One that is full, or keeps no log, is a warning; a sound one is silent."""
    assert list(redis_findings({"maxmemory_policy": "noeviction", "aof_enabled": "1"})) == []
    facts = {"maxmemory_policy": "allkeys-lru", "maxmemory": "100", "used_memory": "95"}
    levels = [found.level for found in redis_findings(facts | {"aof_enabled": "0"})]
    assert levels == ["fail", "warn", "warn"]


def test_embedded_stores_are_no_servers_and_replicas_are_counted() -> None:
    """Stages, followers and the controller each open the control store."""
    assert list(check_postgres(Settings())) == []
    assert n_replicas(Settings()) == 1 + 2 + 1 + 1 + 3 + 1
