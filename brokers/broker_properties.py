"""The properties file of one broker that is its own controller too. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brokers.broker_security import BrokerSecurity

SESSION_TIMEOUT_MS = 4_000
"""A dead broker's partitions move so soon; Kafka's own default is 9 s."""
_FIXED = {
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": str(SESSION_TIMEOUT_MS),
    "broker.heartbeat.interval.ms": "500",
    "controlled.shutdown.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "2",
    # Kafka's default of 128 MB is half the heap given here.
    "log.cleaner.dedupe.buffer.size": "4194304",
}


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """Where one broker of a cluster lives."""

    node_id: int
    port: int
    controller_port: int
    sasl_port: int
    """Used where the broker is secured, like the next one."""
    tls_port: int
    directory: Path

    @property
    def address(self) -> str:
        """What a client connects to."""
        return f"127.0.0.1:{self.port}"


def broker_properties(
    place: BrokerPlace,
    places: Sequence[BrokerPlace],
    settings: Mapping[str, str],
    security: BrokerSecurity | None = None,
) -> str:
    """The properties of one of `places`: loopback only, replicas on as many brokers as there are.

    Args:
        place: the broker.
        places: all brokers of its cluster.
        settings: properties that differ from the ones below.
        security: listeners with TLS beside the plain one.
    """
    n_replicas = min(3, len(places))
    n_in_sync = min(2, len(places))
    clients = f"PLAINTEXT://{place.address}"
    if security is not None:
        clients += f",SASL_SSL://127.0.0.1:{place.sasl_port},SSL://127.0.0.1:{place.tls_port}"
    voters = ",".join(f"{p.node_id}@127.0.0.1:{p.controller_port}" for p in places)
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(place.node_id),
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"{clients},CONTROLLER://127.0.0.1:{place.controller_port}",
        "advertised.listeners": clients,
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL"
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(place.directory / "data"),
        "auto.create.topics.enable": "false",
        "default.replication.factor": str(n_replicas),
        "min.insync.replicas": str(n_in_sync),
        "offsets.topic.replication.factor": str(n_replicas),
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": str(n_replicas),
        "transaction.state.log.min.isr": str(n_in_sync),
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": str(n_replicas),
        "share.coordinator.state.topic.min.isr": str(n_in_sync),
        "share.coordinator.state.topic.num.partitions": "1",
    }
    properties |= _FIXED
    properties |= security.properties() if security is not None else {}
    properties |= settings
    return "".join(f"{name}={value}\n" for name, value in properties.items())
