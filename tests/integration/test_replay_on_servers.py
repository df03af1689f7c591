"""Features in Redis and evidence in Postgres computed anew while others read and follow."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recsys.errors import ConfigError, DataError, StoreError
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES
from recsys.stores.evidence import evidence_tables
from recsys.stores.features.feature_update import FeatureContents
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.log.event_log import SqliteEventLog
from recsys.stores.redis_features import redis_draft
from recsys.stores.redis_features.redis_draft import (
    ALIVE,
    ALIVE_S,
    DRAFT,
    RedisFeatureDraft,
    with_database,
)
from recsys.stores.redis_features.redis_link import RedisLink
from tests.evidence_by_hand import a_random_log, evidence_by_hand
from tests.evidence_follower import SETTINGS, stored
from tests.feature_backends import with_redis
from tests.postgres_server import PostgresServer, a_postgres_server
from tests.redis_server import RedisServer, a_redis_server
from train_app.following.replay_stores import replay
from train_app.following.worker_replica import open_follower

pytestmark = pytest.mark.integration

PARTITIONS = range(4)
EVENTS = a_random_log(17, 1_200, 12)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    """One server, emptied before each test."""
    with a_redis_server(tmp_path_factory.mktemp("redis"), password="open sesame") as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    """One server."""
    with a_postgres_server() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An own place."""
    lake = SETTINGS.lake.model_copy(update={"commit_every_s": 0.05})
    return SETTINGS.model_copy(update={"data_dir": tmp_path / "var", "lake": lake})


@pytest.fixture
def log(settings: Settings) -> Iterator[SqliteEventLog]:
    """A log that nobody has read."""
    opened = SqliteEventLog(settings.log_path, len(PARTITIONS))
    opened.append(EVENTS)
    yield opened
    opened.close()


@pytest.fixture
def in_redis(settings: Settings, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Features in an empty Redis that wants a password."""
    monkeypatch.setenv("FLYWHEEL_REDIS_PASSWORD", redis.password)
    link = RedisLink(redis.url, redis.password, 10)
    link.ask([("FLUSHALL",)])
    link.close()
    return with_redis(settings, redis.url)


def drain(settings: Settings, worker: str, log: SqliteEventLog) -> None:
    """One follower takes in what is new."""
    with closing(open_follower(worker, log, settings)) as follower:
        while follower.lag(PARTITIONS):
            follower.run_once(PARTITIONS)


def contents(settings: Settings) -> FeatureContents:
    """Everything in the feature store."""
    with closing(open_feature_writer(settings)) as writer:
        return writer.contents()


@pytest.mark.parametrize("from_lake", [False, True])
def test_features_in_redis_are_swapped_while_they_are_read_and_followed(
    in_redis: Settings, log: SqliteEventLog, from_lake: bool
) -> None:
    """A reader never finds a known user unknown, and the stream goes on behind the new values."""
    drain(in_redis, FEATURES, log)
    before = contents(in_redis)
    user_id = next(iter(before.states))
    unknown, stopping = [], threading.Event()

    def read() -> None:
        with closing(open_features(in_redis)) as store:
            while not stopping.is_set():
                unknown.extend(s for s in store.read_users([user_id]) if not s.version)

    reader = threading.Thread(target=read)
    with closing(open_follower(FEATURES, log, in_redis)) as stream:
        stream.run_once(PARTITIONS)
        reader.start()
        outcome = replay(in_redis, features=True, evidence=False, from_lake=from_lake)
        stopping.set()
        reader.join()
        assert outcome.document["n_taken"]["features"] > 0
        assert contents(in_redis) == before
        log.append(a_random_log(18, 1_300, 12)[-50:])
        while stream.lag(PARTITIONS):
            stream.run_once(PARTITIONS)
    assert unknown == []
    alone = in_redis.model_copy(
        update={"data_dir": in_redis.data_dir / "alone", "features": SETTINGS.features}
    )
    drain(alone, FEATURES, log)
    assert contents(in_redis) == contents(alone)


def used_databases(settings: Settings, password: str) -> set[str]:
    """The databases of the server that hold anything."""
    link = RedisLink(settings.features.redis_url, password, 10)
    (info,) = link.ask([("INFO", "keyspace")])
    link.close()
    return {line.split(b":")[0].decode() for line in info.splitlines() if line.startswith(b"db")}


def presume_dead(draft: RedisFeatureDraft, redis: RedisServer) -> None:
    """As `ALIVE_S` after its process was killed."""
    draft._stopping.set()
    assert draft._renewal is not None
    draft._renewal.join()
    link = RedisLink(with_database(redis.url, 15), redis.password, 10)
    assert 0 < link.ask([("TTL", ALIVE)])[0] <= ALIVE_S
    assert link.ask([("DEL", ALIVE)]) == [1]
    link.close()


def test_a_second_replay_is_refused_while_the_first_works(
    in_redis: Settings,
    log: SqliteEventLog,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither it nor one that began at the same moment touches the first one's draft."""
    monkeypatch.setattr(redis_draft, "_RENEW_EVERY_S", 0.01)
    drain(in_redis, FEATURES, log)
    first = RedisFeatureDraft(redis.url, redis.password)
    rival = RedisFeatureDraft(redis.url, redis.password)
    with closing(first.writer()) as writer:
        writer.write_popular("live", [("the-new-one", 1.0)])
        with pytest.raises(StoreError, match="run one replay at a time"):
            replay(in_redis, features=True, evidence=False, from_lake=False)
        with pytest.raises(StoreError, match="taken database 15"):
            rival.writer()
        rival.remove()
        link = RedisLink(with_database(redis.url, 15), redis.password, 10)
        link.ask([("DEL", ALIVE)])
        for _ in range(1_000):
            if link.ask([("EXISTS", ALIVE)]) == [1]:
                break
            threading.Event().wait(0.005)
        assert link.ask([("EXISTS", ALIVE)]) == [1], "the first does not say that it lives"
        link.close()
    first.put_in_place()
    assert used_databases(in_redis, redis.password) == {"db0", "db15"}
    rival.remove()
    assert used_databases(in_redis, redis.password) == {"db0", "db15"}
    first.remove()
    assert used_databases(in_redis, redis.password) == {"db0"}
    with closing(open_features(in_redis)) as store:
        assert store.popular(9) == [("the-new-one", 1.0)]
    live = RedisLink(redis.url, redis.password, 10)
    assert live.ask([("EXISTS", DRAFT, ALIVE)]) == [0]
    live.close()


def test_what_a_killed_replay_left_is_taken_by_the_next(
    in_redis: Settings, log: SqliteEventLog, redis: RedisServer
) -> None:
    """Its database is emptied and used again; nothing of it is left in the end."""
    drain(in_redis, FEATURES, log)
    killed = RedisFeatureDraft(redis.url, redis.password)
    killed.writer().close()
    presume_dead(killed, redis)
    assert used_databases(in_redis, redis.password) == {"db0", "db15"}
    replay(in_redis, features=True, evidence=False, from_lake=False)
    assert used_databases(in_redis, redis.password) == {"db0"}
    with pytest.raises(StoreError, match="another process has taken database 15"):
        killed.put_in_place()


def test_a_database_with_keys_of_others_is_not_swapped(
    in_redis: Settings, log: SqliteEventLog, redis: RedisServer
) -> None:
    """They would go with the old features."""
    link = RedisLink(redis.url, redis.password, 10)
    link.ask([("SET", "somebody:else", 1)])
    with pytest.raises(ConfigError, match=r"keys of others, such as b'somebody:else'"):
        replay(in_redis, features=True, evidence=False, from_lake=False)
    assert link.ask([("GET", "somebody:else")]) == [b"1"]
    link.ask([("FLUSHALL",)])
    for number in range(1, 16):
        other = RedisLink(with_database(redis.url, number), redis.password, 10)
        other.ask([("SET", "taken", 1)])
        other.close()
    with pytest.raises(ConfigError, match="no empty database"):
        replay(in_redis, features=True, evidence=False, from_lake=False)
    link.close()


def test_evidence_in_postgres_is_counted_anew(
    settings: Settings, log: SqliteEventLog, postgres: PostgresServer
) -> None:
    """The salt stays, the sums are those of a plain count, and the stream goes on behind them."""
    url = postgres.new_database()
    settings = settings.model_copy(update={"evidence_store_url": url})
    drain(settings, EVIDENCE, log)
    wanted = evidence_by_hand(EVENTS)
    hours = evidence_tables.hours
    engine = evidence_tables.open_evidence(url, writes=True)
    with engine.begin() as connection:
        salt = evidence_tables.read_salt(connection)
        connection.execute(hours.update().values(shown=hours.c.shown + 1))
    assert stored(url)["hours"] != wanted["hours"]
    with closing(open_follower(EVIDENCE, log, settings)) as stream:
        assert stream.lag(PARTITIONS) == 0
        outcome = replay(settings, features=False, evidence=True, from_lake=False)
        assert outcome.document["n_taken"]["evidence"] == len({e.event_id for e in EVENTS})
        found = stored(url)
        assert {name: found[name] for name in wanted} == wanted
        more = a_random_log(18, 1_300, 12)[-50:]
        log.append(more)
        while stream.lag(PARTITIONS):
            stream.run_once(PARTITIONS)
    with engine.begin() as connection:
        assert evidence_tables.read_salt(connection) == salt
        schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'evidence_rebuild'"
        assert connection.exec_driver_sql(schemas).scalar() == 0
    engine.dispose()


@pytest.mark.parametrize("server", ["sqlite", "postgres"])
def test_evidence_of_a_trimmed_log_comes_from_the_lake(
    settings: Settings, log: SqliteEventLog, server: str, request: pytest.FixtureRequest
) -> None:
    """Slates, reactions and outcomes in the log's order: the same sums as from the whole log."""
    if server == "postgres":
        url = request.getfixturevalue("postgres").new_database()
        settings = settings.model_copy(update={"evidence_store_url": url})
    drain(settings, EVIDENCE, log)
    drain(settings, ARCHIVER, log)
    before = stored(settings.evidence_url)
    for partition, end in log.end_offsets().items():
        log.trim(partition, end // 2)
    with pytest.raises(DataError, match="--from-lake"):
        replay(settings, features=False, evidence=True, from_lake=False)
    replay(settings, features=False, evidence=True, from_lake=True)
    assert stored(settings.evidence_url) == before
    assert before["outcomes"]
