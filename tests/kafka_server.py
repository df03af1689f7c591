"""Real brokers for tests: a cluster for a module, a topic of its own for each test."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers.broker_security import BrokerSecurity
from brokers.jars import skip_reason
from brokers.kafka_cluster import KafkaCluster
from recsys.data_settings import EventSettings, KafkaSettings

with warnings.catch_warnings():
    # kafka-python reads its schemas, at import, with a function that Python 3.11 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("kafka.admin")


@contextmanager
def a_kafka_cluster(
    n_brokers: int = 1,
    *,
    settings: dict[str, str] | None = None,
    security: BrokerSecurity | None = None,
) -> Generator[KafkaCluster]:
    """Brokers that answer, taken away at the end; the test is skipped where there can be none.

    As a fixture: `with a_kafka_cluster() as cluster: yield cluster`, with `scope="module"`.
    """
    reason = skip_reason()
    if reason is not None:
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="flywheel-kafka-"))
    try:
        with KafkaCluster(n_brokers, directory, settings=settings, security=security) as cluster:
            yield cluster
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def a_topic(cluster: KafkaCluster, n_partitions: int = 4) -> str:
    """A fresh topic whose every partition has a leader."""
    name = f"events-{uuid.uuid4().hex[:12]}"
    cluster.create_topic(name, n_partitions)
    return name


def kafka_event_settings(cluster: KafkaCluster, topic: str, **changes: object) -> EventSettings:
    """The settings `events` of a log in this topic; `changes` are fields of `EventSettings`."""
    kafka = KafkaSettings(bootstrap_servers=cluster.bootstrap_servers, topic=topic)
    fields = {"backend": "kafka", "n_partitions": 4, "kafka": kafka} | changes
    return EventSettings.model_validate(fields)
