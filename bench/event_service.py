"""The service of the event benchmarks, through `cluster up`, on either log and on free ports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.variants import free_port
from bench.workload import prepare
from brokers.jars import BrokerError, missing_programs
from brokers.kafka_cluster import KafkaCluster
from recsys.errors import FleetError
from recsys.settings import Settings
from recsys.settings_files import load_settings

LOGS = ("sqlite", "kafka")
N_ITEMS, N_USERS = 5_000, 2_000
_PORTS: tuple[str, ...] = ("SERVE__PORT", "CLUSTER__RAY_PORT", "CLUSTER__HAPROXY_STATS_PORT")
_PORTS += ("CLUSTER__HAPROXY_METRICS_PORT", "CLUSTER__FALLBACK_PORT", "CLUSTER__METRICS_PORT")


@dataclass(frozen=True, slots=True)
class EventService:
    """A running service with an empty log, and the settings it runs with."""

    url: str
    settings: Settings


def usable_logs() -> list[str]:
    """The logs that can be measured here: Kafka needs Java, and its jars or Maven."""
    return [log for log in LOGS if log == "sqlite" or missing_programs() is None]


@contextmanager
def event_service(data_dir: Path, log: str) -> Generator[EventService]:
    """A small bundle, the log asked for, and the service up; gone at the end.

    Raises:
        FleetError: it cannot be started.
    """
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    prepare(data_dir, N_ITEMS, N_USERS)
    chosen = {name: str(free_port()) for name in _PORTS}
    chosen |= {"DATA_DIR": str(data_dir), "EVENTS__BACKEND": log}
    with ExitStack() as stack:
        if log == "kafka":
            servers = stack.enter_context(_broker(data_dir / "kafka"))
            chosen["EVENTS__KAFKA__BOOTSTRAP_SERVERS"] = f'["{servers}"]'
        environment = os.environ | {f"FLYWHEEL__{key}": value for key, value in chosen.items()}
        environment |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        stack.callback(_cluster, environment, "down")
        exit_code = _cluster(environment, "up", "--wait")
        if exit_code:
            raise FleetError(f"'cluster up' exited with {exit_code}; see what it said above")
        url = f"http://127.0.0.1:{chosen['SERVE__PORT']}"
        yield EventService(url, load_settings((), environment))


def _cluster(environment: dict[str, str], *arguments: str) -> int:
    """Run a verb; its words go to stderr, since stdout is for the figures."""
    command = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode


@contextmanager
def _broker(directory: Path) -> Generator[str]:
    try:
        with KafkaCluster(1, directory) as cluster:
            cluster.create_topic("events", Settings().events.n_partitions)
            yield cluster.bootstrap_servers[0]
    except BrokerError as error:
        raise FleetError(f"the broker cannot be used: {error}") from error
