"""The services that faults are done to, and the servers beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from brokers.kafka_cluster import KafkaCluster
from recsys.data_settings import EventSettings, FeatureSettings, KafkaSettings
from tests.redis_server import RedisServer

TOPIC = "events"
RAISING, DAWDLING = 1, 2
"""Which of the bundles have scorers that fail, where faults are injected."""
DAWDLE_S = 0.3
_TESTS = Path(__file__).parents[1]
_PATIENT = {"stage_timeout_ms": 1_000, "deadline_ms": 5_000}
"""A shared machine stalls for a while by itself; only what was done may be missed."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A server that a service needs, and the settings that lead to it."""

    server: Any
    changes: Mapping[str, Any] = field(default_factory=dict)


OpenBeside: TypeAlias = Callable[[Path], AbstractContextManager[Beside]]


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """What a service is made of."""

    serve: Mapping[str, Any]
    """Settings of the serving branch."""
    beside: OpenBeside
    variables: Callable[[Path], Mapping[str, str]] = lambda _: {}
    """The environment of its processes."""
    n_nodes: int = 1
    n_bundles: int = 1
    """Published; the first is in force."""


def nothing_beside(directory: Path) -> AbstractContextManager[Beside]:
    """For a service with embedded stores."""
    return nullcontext(Beside(None))


@contextmanager
def redis_beside(directory: Path) -> Generator[Beside]:
    """A server for the features."""
    server = RedisServer(directory / "redis")
    server.start()
    try:
        features = FeatureSettings(backend="redis", redis_url=server.url, redis_timeout_ms=200)
        yield Beside(server, {"features": features})
    finally:
        server.stop()


@contextmanager
def kafka_beside(directory: Path) -> Generator[Beside]:
    """A broker for the log."""
    with KafkaCluster(1, directory / "kafka") as cluster:
        cluster.create_topic(TOPIC, 4)
        kafka = KafkaSettings(
            topic=TOPIC, bootstrap_servers=cluster.bootstrap_servers, delivery_timeout_s=2.0
        )
        yield Beside(cluster, {"events": EventSettings(backend="kafka", kafka=kafka)})


@contextmanager
def gcs_beside(directory: Path) -> Generator[Beside]:
    """A Redis in which the GCS keeps what it knows."""
    server = RedisServer(directory / "gcs")
    server.start()
    try:
        (directory / "gcs-address").write_text(f"127.0.0.1:{server.port}")
        yield Beside(server)
    finally:
        server.stop()


def gcs_in_redis(directory: Path) -> Mapping[str, str]:
    """The environment of a Ray whose GCS keeps what it knows outside."""
    return {"RAY_REDIS_ADDRESS": (directory / "gcs-address").read_text()}


def clock_file(directory: Path) -> Path:
    """Where the processes of a service read how wrong their clock is."""
    return directory / "clock-offset"


def injected(directory: Path) -> Mapping[str, str]:
    """Processes whose clock can be set, and in which the scorers of two bundles are faulty."""
    clock_file(directory).write_text("0")
    faults = {f"b{1 + RAISING:04d}": "raises", f"b{1 + DAWDLING:04d}": DAWDLE_S}
    return {
        "PYTHONPATH": f"{_TESTS / 'fault_injection'}:{_TESTS.parent}",
        "JUMPING_CLOCK": str(clock_file(directory)),
        "FAULTY_SCORERS": json.dumps(faults),
    }


_TWO_OF_EACH = {**_PATIENT, "scorer_replicas": 2, "ordering_replicas": 2, "shard_replicas": 2}

PAIRS = Service(_TWO_OF_EACH, redis_beside, injected, n_bundles=4)
"""Two replicas of every stage, features in Redis, and faults of bundles and clocks prepared."""
N_HOLDERS = 9
"""Its replicas that hold bundles: a gateway and two of each stage."""
SINGLES = Service({**_PATIENT, "ladder_wait_ms": 100}, nothing_beside)
"""One replica of every stage, embedded stores, and a ladder."""
WITH_KAFKA = Service(_PATIENT, kafka_beside)
"""One replica of every stage, and the log in Kafka."""
NODES = Service(_TWO_OF_EACH, gcs_beside, gcs_in_redis, n_nodes=3)
"""Two replicas of every stage on three Ray nodes, and what the GCS knows in Redis."""
