"""Forgetting a person where the log is Kafka's and the features are Redis': real servers."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from brokers.kafka_cluster import KafkaCluster
from recsys.errors import StoreError
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.control.membership import WORKERS
from recsys.stores.features.open_features import open_features
from recsys.stores.log.event_log import EventLog
from recsys.stores.log.open_log import open_log
from recsys.stores.log.topic_retention import longest_kept_ms
from tests.kafka_server import a_kafka_cluster, a_topic, kafka_event_settings
from tests.redis_server import RedisServer, a_redis_server
from train_app.following.worker_replica import open_follower
from train_app.forgetting import forget

pytestmark = pytest.mark.integration

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
SEGMENT_MS = 7 * DAY_MS
DELETE_DELAY_MS = 60_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    """One broker."""
    with a_kafka_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server."""
    with a_redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


def settings_on(cluster: KafkaCluster, redis: RedisServer, directory: Path) -> Settings:
    """Both servers, and a topic of its own."""
    events = kafka_event_settings(cluster, a_topic(cluster))
    return Settings.model_validate(
        {
            "data_dir": directory / "var",
            "events": events.model_dump(),
            "features": {"backend": "redis", "redis_url": redis.url, "redis_timeout_ms": 2000},
            "lake": {"commit_every_s": 0.05},
        }
    )


def clicks_of(user_id: str) -> list[Engagement]:
    """Five clicks."""
    return [
        Engagement(
            event_id=f"{user_id}-{n}",
            kind="click",
            user_id=user_id,
            item_id=f"item-{n}",
            timestamp_ms=NOW_MS + n,
            received_at_ms=NOW_MS + n,
            origin="api",
        )
        for n in range(5)
    ]


def bring_in_everything(settings: Settings, log: EventLog) -> None:
    """Every follower takes in the whole topic."""
    partitions = range(settings.events.n_partitions)
    for worker in WORKERS:
        with closing(open_follower(worker, log, settings)) as follower:
            while follower.lag(partitions):
                follower.run_once(partitions)


def histories(settings: Settings, *user_ids: str) -> list[int]:
    """The lengths of live histories."""
    with closing(open_features(settings)) as store:
        return [len(state.history) for state in store.read_users(user_ids)]


def test_a_person_is_forgotten_and_the_topic_loses_them_by_its_retention(
    cluster: KafkaCluster, redis: RedisServer, tmp_path: Path
) -> None:
    """Features, evidence and lake at once; the report names the day for the topic."""
    settings = settings_on(cluster, redis, tmp_path)
    with closing(open_log(settings)) as log:
        log.append([*clicks_of("alice"), *clicks_of("bob")])
        bring_in_everything(settings, log)
        assert histories(settings, "alice", "bob") == [5, 5]
        report = forget(settings, "alice", now_ms=lambda: NOW_MS)
        assert histories(settings, "alice", "bob") == [0, 5]
        assert report.n_log_records == 0
        kept_ms = longest_kept_ms(settings.events)
        assert kept_ms == 7 * DAY_MS + SEGMENT_MS + DELETE_DELAY_MS
        topic = settings.events.kafka.topic
        assert f"the records leave topic {topic} at the latest on 2026-10-05" in report.text()
        log.append([clicks_of("alice")[0]])
        log.append([Engagement(**{**_fields(clicks_of("alice")[0]), "event_id": "a-new-life"})])
        bring_in_everything(settings, log)
    # The first was counted before and is a repetition; the second begins a new life.
    assert histories(settings, "alice", "bob") == [1, 5]


def test_without_the_broker_nothing_is_forgotten_and_the_error_says_so(
    redis: RedisServer, tmp_path: Path
) -> None:
    """The word has to stand in the log first."""
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path / "var",
            "events": {
                "backend": "kafka",
                "kafka": {"bootstrap_servers": ["127.0.0.1:1"], "delivery_timeout_s": 0.5},
            },
            "features": {"backend": "redis", "redis_url": redis.url},
        }
    )
    with pytest.raises(StoreError, match="check that the broker runs"):
        forget(settings, "alice")
    with warnings.catch_warnings():
        # The client leaves the socket of a connection that was refused to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert not (tmp_path / "var").exists()


def _fields(event: Engagement) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}
