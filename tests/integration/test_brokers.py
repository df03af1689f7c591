"""Tests of the brokers that other tests stand on: ready when said, and never left behind."""

import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from brokers.jars import skip_reason
from brokers.kafka_cluster import KafkaCluster
from tests.kafka_server import a_kafka_cluster, a_topic

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cluster() -> Generator[KafkaCluster]:
    """One broker for this module."""
    with a_kafka_cluster() as cluster:
        yield cluster


def read_all(cluster: KafkaCluster, topic: str) -> list[bytes]:
    """Every value of a topic of one partition."""
    from kafka import KafkaConsumer, TopicPartition

    partition = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=list(cluster.bootstrap_servers))
    try:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        values: list[bytes] = []
        while len(values) < end:
            for records in consumer.poll(timeout_ms=500).values():
                values += [record.value for record in records]
        return values
    finally:
        consumer.close()


def test_what_a_killed_broker_acknowledged_is_there_when_it_returns(cluster: KafkaCluster) -> None:
    """`kill` is SIGKILL and `start` brings the same records back on the same address."""
    from kafka import KafkaProducer

    topic = a_topic(cluster, 1)
    producer = KafkaProducer(bootstrap_servers=list(cluster.bootstrap_servers))
    try:
        for n in range(100):
            producer.send(topic, b"%d" % n)
        producer.flush(10)
    finally:
        producer.close()
    (before,) = cluster.pids
    cluster.kill(0)
    assert not psutil.pid_exists(before)
    cluster.start(0)
    assert read_all(cluster, topic) == [b"%d" % n for n in range(100)]


def test_a_topic_that_is_there_stays(cluster: KafkaCluster) -> None:
    """`create_topic` may be called at every start."""
    topic = a_topic(cluster, 3)
    cluster.create_topic(topic, 3)
    assert len(cluster.pids) == 1


STARTER = """
import sys, time
from pathlib import Path
from brokers.kafka_cluster import KafkaCluster
cluster = KafkaCluster(1, Path(sys.argv[1]))
cluster.start_all()
print(*cluster.pids, flush=True)
time.sleep(600)
"""


def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Even SIGKILL of a test run leaves no broker behind."""
    reason = skip_reason()
    if reason is not None:
        pytest.skip(reason)
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    with starter.stdout:
        pid = int(starter.stdout.readline())
    broker = psutil.Process(pid)
    assert broker.is_running()
    starter.kill()
    starter.wait(10)
    deadline = time.monotonic() + 10
    while broker.is_running() and broker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"broker {pid} outlives its starter"
        time.sleep(0.05)


def test_a_taken_port_is_named(cluster: KafkaCluster, tmp_path: Path) -> None:
    """`make kafka` says who is in the way before it starts anything."""
    port = cluster.places[0].port
    command = [sys.executable, "-m", "brokers", "--port", str(port), "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr
    assert not list(tmp_path.iterdir())
