"""A cluster of real brokers on the loopback address: started, killed, paused and taken away.

Each broker is its own controller as well (KRaft); what it stores lies under one directory.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from brokers.broker_ports import free_ports
from brokers.broker_process import BrokerProcess
from brokers.broker_properties import BrokerPlace
from brokers.broker_security import BrokerSecurity
from brokers.format_brokers import format_brokers, properties_file
from brokers.jars import BrokerError, broker_jars

_POLL_S = 0.1
_ASK_TIMEOUT_MS = 1_000
_STARTED = "Kafka Server started"
"""A broker's own word: the cluster lists one that was killed until its session runs out."""


class KafkaCluster:
    """Brokers of one cluster, as a context manager.

    Args:
        n_brokers: 1, or 3 to keep three replicas of every record, two of which acknowledge it.
        directory: everything of the cluster lies in it; one with records in it is taken up again.
        port: of the first broker, the others follow; free ports where it is None.
        heap_mb: of each broker.
        settings: properties that differ from `broker_properties`.
        security: also listen with TLS, for users with passwords and clients with certificates.
        say: told what takes time.

    Raises:
        BrokerError: Java or the jars are missing.
    """

    def __init__(
        self,
        n_brokers: int,
        directory: Path,
        *,
        port: int | None = None,
        heap_mb: int = 320,
        settings: Mapping[str, str] | None = None,
        security: BrokerSecurity | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._jars = broker_jars(say)
        self._heap_mb = heap_mb
        self._settings = dict(settings or {})
        self._security = security
        self.directory = directory.resolve()
        ports = free_ports(4 * n_brokers)
        if port is not None:
            ports[:n_brokers] = range(port, port + n_brokers)
        groups = [ports[k : k + n_brokers] for k in range(0, 4 * n_brokers, n_brokers)]
        self.places = tuple(
            BrokerPlace(n + 1, port, controller, sasl, tls, self.directory / f"broker-{n + 1}")
            for n, (port, controller, sasl, tls) in enumerate(zip(*groups, strict=True))
        )
        self._processes: dict[int, BrokerProcess] = {}
        self._paused: set[int] = set()

    @property
    def bootstrap_servers(self) -> tuple[str, ...]:
        """The addresses of all brokers, for `events.kafka.bootstrap_servers`."""
        return tuple(place.address for place in self.places)

    @property
    def sasl_servers(self) -> tuple[str, ...]:
        """The same with TLS, for users with passwords."""
        return tuple(f"127.0.0.1:{place.sasl_port}" for place in self.places)

    @property
    def tls_servers(self) -> tuple[str, ...]:
        """The same with TLS, for clients with certificates."""
        return tuple(f"127.0.0.1:{place.tls_port}" for place in self.places)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that run."""
        return tuple(p.pid for p in self._processes.values() if p.is_alive())

    def __enter__(self) -> KafkaCluster:
        try:
            self.start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start_all(self, timeout_s: float = 90.0) -> None:
        """Start every broker and return when the cluster answers.

        Raises:
            BrokerError: it does not.
        """
        format_brokers(self._java(), self.directory, self.places, self._settings, self._security)
        for index in range(len(self.places)):
            self.start(index, wait=False)
        self.wait_ready(timeout_s)

    def start(self, index: int, *, wait: bool = True, timeout_s: float = 90.0) -> None:
        """Start one broker, as after `kill`, with what it had stored.

        Raises:
            BrokerError: it ends at once, or is not part of the cluster in time.
        """
        running = self._processes.get(index)
        if running is not None and running.is_alive():
            return
        if running is not None:
            running.end()
        place = self.places[index]
        command = [*self._java(), "kafka.Kafka", str(properties_file(place))]
        self._processes[index] = BrokerProcess(command, place.directory / "broker.log")
        if wait:
            self.wait_ready(timeout_s)

    def kill(self, index: int) -> None:
        """SIGKILL one broker and see it gone."""
        self._paused.discard(index)
        process = self._processes.pop(index, None)
        if process is not None:
            process.end()

    def pause(self, index: int) -> None:
        """SIGSTOP one broker: its connections stay open and nothing is answered."""
        self._paused.add(index)
        self._processes[index].signal(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """Let a paused broker go on."""
        self._paused.discard(index)
        self._processes[index].signal(signal.SIGCONT)

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        """Return when the cluster lists every broker that was started and is neither killed nor
        paused.

        Raises:
            BrokerError: one of them ended, or it takes longer.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            started = {
                self.places[n].node_id: process
                for n, process in self._processes.items()
                if n not in self._paused
            }
            for node_id, process in started.items():
                if not process.is_alive():
                    raise BrokerError(
                        f"broker {node_id} ended, expected it to run; it said last:\n"
                        f"{process.tail()}"
                    )
            ready = {node_id for node_id, p in started.items() if _STARTED in p.output()}
            if started and ready == set(started):
                ready &= self._listed()
            if started and ready == set(started):
                return
            if time.monotonic() >= deadline:
                late = sorted(set(started) - ready)
                raise BrokerError(
                    f"brokers {late} are not part of the cluster after {timeout_s:g} s; see "
                    f"{self.directory}/broker-{late[0]}/broker.log"
                )
            time.sleep(_POLL_S)

    def create_topic(
        self,
        name: str,
        n_partitions: int,
        replication: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Make a topic and return when every partition of it has a leader; one that is there stays.

        Args:
            name: the topic.
            n_partitions: as many as `events.n_partitions` says.
            replication: copies of each record; 3, or 1 on a single broker, where it is None.
            settings: of the topic, such as `retention.ms`.
        """
        from kafka.errors import TopicAlreadyExistsError

        topic = {
            "num_partitions": n_partitions,
            "replication_factor": replication or min(3, len(self.places)),
            "configs": dict(settings or {}),
        }
        admin = self._admin(30_000)
        try:
            admin.create_topics({name: topic}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            return
        finally:
            admin.close()

    def stop(self) -> None:
        """Kill every broker; what they stored stays in the directory."""
        for process in self._processes.values():
            process.end()
        self._processes.clear()
        self._paused.clear()

    def _listed(self) -> set[int]:
        """The brokers that the cluster lists; none where it does not answer."""
        from kafka.errors import KafkaError

        try:
            admin = self._admin(_ASK_TIMEOUT_MS)
        except (KafkaError, OSError):
            return set()
        try:
            return {broker["broker_id"] for broker in admin.describe_cluster()["brokers"]}
        except (KafkaError, OSError):
            return set()
        finally:
            admin.close()

    def _admin(self, timeout_ms: int) -> Any:
        from kafka.admin import KafkaAdminClient

        # Calling a broker that has not started yet is no news here.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        return KafkaAdminClient(
            bootstrap_servers=list(self.bootstrap_servers),
            bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=max(timeout_ms, 5_000),
        )

    def _java(self) -> list[str]:
        heap = [f"-Xms{min(self._heap_mb, 192)}m", f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC"]
        log = "-Dorg.slf4j.simpleLogger"
        return [
            "java",
            *heap,
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-Djava.awt.headless=true",
            f"{log}.defaultLogLevel=warn",
            f"{log}.log.kafka.server.KafkaRaftServer=info",
            f"{log}.showDateTime=true",
            "-cp",
            f"{self._jars}/*",
        ]
