"""The doctor's checks of Postgres and of what Redis is allowed to forget, each with what is wrong.

Pure but for the `check_` and `ask_` functions; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.findings import Check, Finding
from recsys.errors import RecsysError, StoreError

if TYPE_CHECKING:
    from recsys.settings import Settings

_OLDEST_POSTGRES = 14
_PER_REPLICA = 3
"""Connections a replica holds at most in calm: control to read and to write, evidence."""
_SPARE = 20
"""Connections for operators, trainings and backups."""
POSTGRES_MENDS = (
    ("password authentication failed", "set PGPASSWORD to the password of the URL's user"),
    ("no password supplied", "set PGPASSWORD, or PGPASSFILE, in the environment"),
    ("translate host name", "correct the host in the URL, or the DNS of this machine"),
    ("resolve host", "correct the host in the URL, or the DNS of this machine"),
    ("connection refused", "start the server, or correct host and port in the URL"),
    ("timeout", "let the network through to the server, or correct host and port in the URL"),
    ("does not exist", "make the database and its user, as docs/stores.md says"),
    ("certificate", "set sslrootcert in the URL to the authority of the server's certificate"),
    ("ssl", "turn TLS on at the server, or correct sslmode in the URL"),
    ("too many", "raise max_connections of the server"),
    ("remaining connection slots", "raise max_connections of the server"),
    ("no pg_hba.conf entry", "let this host and user in by pg_hba.conf, with TLS"),
)
"""What a refusal contains, in lower case, and what to do about it."""


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """What a Postgres server says of itself."""

    version: int
    """The major one."""
    max_connections: int
    settings: Mapping[str, str]
    """`fsync`, `synchronous_commit` and `server_encoding`."""
    is_standby: bool
    is_secured: bool
    """Whether this connection is over TLS, or does not leave the machine."""
    clock_ms: int


def mend_of(reason: str, mends: Iterable[tuple[str, str]], otherwise: str) -> str:
    """What to do about a refusal, by what its text contains."""
    text = reason.lower()
    return next((mend for sign, mend in mends if sign in text), otherwise)


def postgres_findings(
    subject: str, facts: PostgresFacts, n_replicas: int, now_ms: int
) -> Iterable[Finding]:
    """What is wrong with a server that answers."""
    troubles = [
        Finding("fail" if level == "fail" else "warn", subject, detail, mend)
        for level, detail, mend in _postgres_rules(facts, n_replicas, now_ms)
        if level
    ]
    yield from troubles
    if not troubles:
        yield Finding(
            "ok", subject, f"Postgres {facts.version}, {facts.max_connections} connections"
        )


def _postgres_rules(
    facts: PostgresFacts, n_replicas: int, now_ms: int
) -> list[tuple[str, str, str]]:
    """How bad each thing is, empty where it is well; what it is; what to do about it."""
    wanted = n_replicas * _PER_REPLICA + _SPARE
    return [
        (
            "fail" if facts.is_standby else "",
            "is a standby that takes no writes",
            "name the primary in the URL, or promote this server",
        ),
        (
            "fail" if facts.version < _OLDEST_POSTGRES else "",
            f"is Postgres {facts.version}, expected at least {_OLDEST_POSTGRES}",
            "upgrade the server",
        ),
        (
            "fail" if facts.settings.get("server_encoding") != "UTF8" else "",
            f"keeps text as {facts.settings.get('server_encoding')}, expected UTF8",
            "make the database anew with ENCODING 'UTF8'",
        ),
        (
            "warn" if facts.settings.get("fsync") != "on" else "",
            "runs with fsync off: a power cut destroys it",
            "set fsync = on",
        ),
        (
            "warn" if not facts.is_secured else "",
            "is spoken to in clear text",
            "add sslmode=verify-full and sslrootcert to the URL",
        ),
        (
            "warn" if facts.max_connections < wanted else "",
            f"takes {facts.max_connections} connections, {n_replicas} replicas want {wanted}",
            "raise max_connections",
        ),
        (
            "warn" if abs(facts.clock_ms - now_ms) > 2_000 else "",
            f"has a clock {(facts.clock_ms - now_ms) / 1000:+.1f} s from this machine's",
            "let both follow NTP: leases are compared with this machine's clock",
        ),
    ]


def n_replicas(settings: Settings) -> int:
    """Processes that open the control store while everything runs, about."""
    serve, workers = settings.serve, settings.workers
    stages = (
        serve.gateway_replicas
        + serve.shard_replicas * settings.retrieval.n_shards
        + serve.scorer_replicas
        + serve.ordering_replicas
    )
    followers = workers.archiver_replicas + workers.feature_replicas + workers.evidence_replicas
    return stages + followers + 1


def check_postgres(settings: Settings) -> Iterable[Finding]:
    """Control store and evidence, where their servers are Postgres."""
    import time

    places = (
        ("control store", settings.control_url, n_replicas(settings)),
        ("evidence store", settings.evidence_url, settings.workers.evidence_replicas),
    )
    for subject, url, replicas in places:
        if url.startswith("sqlite"):
            continue
        if _says_password(url):
            mend = "take it out of the URL and set PGPASSWORD in the environment"
            yield Finding("warn", subject, "has its password in the settings", mend)
        try:
            facts = ask_postgres(url)
        except RecsysError as error:
            mend = mend_of(str(error), POSTGRES_MENDS, "see the log of the server")
            yield Finding("fail", subject, str(error), mend)
            continue
        yield from postgres_findings(subject, facts, replicas, time.time_ns() // 1_000_000)


def ask_postgres(url: str) -> PostgresFacts:
    """What the server at an SQLAlchemy URL says of itself.

    Raises:
        ConfigError: the URL cannot be used.
        StoreError: the server cannot be reached, or lets nobody in.
    """
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from recsys.stores.control.control_tables import open_engine

    engine = open_engine(url, writes=False)
    try:
        with engine.begin() as connection:

            def one(query: str) -> Any:
                return connection.execute(text(query)).scalar_one()

            wanted = ("fsync", "server_encoding")
            return PostgresFacts(
                int(one("SHOW server_version_num")) // 10_000,
                int(one("SHOW max_connections")),
                {name: str(one(f"SHOW {name}")) for name in wanted},
                bool(one("SELECT pg_is_in_recovery()")),
                bool(
                    one(
                        "SELECT coalesce(inet_server_addr() IS NULL"
                        " OR host(inet_server_addr()) IN ('127.0.0.1', '::1') OR"
                        " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)"
                    )
                ),
                int(one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")),
            )

    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StoreError(f"{engine.url} cannot be used: {reason}") from error
    finally:
        engine.dispose()


def _says_password(url: str) -> bool:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).password is not None
    except (ArgumentError, ValueError):
        return False


def check_redis_limits(settings: Settings) -> Iterable[Finding]:
    """The features' server keeps what it is given; nothing where it is away, or none."""
    if settings.features.backend != "redis":
        return
    from contextlib import closing

    from recsys.stores.features.open_features import redis_password
    from recsys.stores.redis_features.redis_link import RedisLink

    with closing(RedisLink(settings.features.redis_url, redis_password(), 1.0)) as link:
        try:
            memory, persistence = link.ask([("INFO", "memory"), ("INFO", "persistence")])
        except StoreError:
            return  # `check_features` says so.
    yield from redis_findings(_facts_of(memory) | _facts_of(persistence))


def redis_findings(facts: Mapping[str, str]) -> Iterable[Finding]:
    """What is wrong with a server of the features, by its own `INFO`."""
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        detail = f"forgets features when memory is short (maxmemory-policy {policy})"
        yield Finding("fail", "redis memory", detail, "set maxmemory-policy noeviction")
    limit, used = int(facts.get("maxmemory", 0)), int(facts.get("used_memory", 0))
    if limit and used > 0.9 * limit:
        detail = f"uses {used / limit:.0%} of maxmemory; writes fail at 100%"
        yield Finding("warn", "redis memory", detail, "raise maxmemory")
    if facts.get("aof_enabled") == "0":
        detail = "keeps no log on disk: a restart loses features, and 'cluster events replay'"
        yield Finding(
            "warn", "redis disk", f"{detail} --features makes them anew", "set appendonly yes"
        )


def _facts_of(answer: Any) -> dict[str, str]:
    text = answer.decode() if isinstance(answer, bytes) else str(answer)
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


SERVER_CHECKS: tuple[Check, ...] = (check_postgres, check_redis_limits)
"""In the order they are shown, after those of `data_findings`."""
