"""How the broker is reached: settings to client options, what is said when it is not there."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from recsys.data_settings import EventSettings, KafkaSettings
from recsys.errors import ConfigError, StoreError
from recsys.stores.log.kafka_log import KafkaEventLog
from recsys.stores.log.kafka_topic import (
    PASSWORD_VARIABLE,
    _create,
    broker_sentence,
    client_options,
)
from tests.kafka_server import a_kafka_cluster


def test_a_plain_broker_needs_no_more_than_its_address() -> None:
    """No file and no user name is passed on where none is set."""
    options = client_options(KafkaSettings(bootstrap_servers=("a:1", "b:2"), delivery_timeout_s=4))
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert options["request_timeout_ms"] == 2_000
    assert not [name for name in options if name.startswith(("ssl", "sasl"))]


def test_the_password_comes_from_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in no settings file; a user name without it is refused with the variable's name."""
    settings = KafkaSettings(
        security_protocol="SASL_SSL", sasl_username="flywheel", ssl_ca_file="/etc/ca.pem"
    )
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=PASSWORD_VARIABLE):
        client_options(settings)
    with pytest.raises(ConfigError, match="and no password"):
        KafkaEventLog(EventSettings(backend="kafka", kafka=settings))
    monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
    options = client_options(settings)
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == (
        "flywheel",
        "open sesame",
    )
    assert options["ssl_cafile"] == "/etc/ca.pem"
    assert "ssl_certfile" not in options
    with pytest.raises(ValidationError):
        KafkaSettings.model_validate({"sasl_password": "in a file"})


def test_an_error_names_broker_topic_and_mend() -> None:
    """Whatever the client said is in the middle."""
    settings = KafkaSettings(bootstrap_servers=("a:1", "b:2"), topic="clicks")
    assert broker_sentence(settings, TimeoutError("too late")) == (
        "kafka at a:1,b:2, topic clicks: TimeoutError: too late;"
        " check that the broker runs and events.kafka.bootstrap_servers names it"
    )


def test_making_the_log_asks_nothing_of_the_broker() -> None:
    """It is lazy: nobody knocks at the broker's door until the first use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        servers = (f"127.0.0.1:{listener.getsockname()[1]}",)
        kafka = KafkaSettings(bootstrap_servers=servers)
        KafkaEventLog(EventSettings(backend="kafka", kafka=kafka)).close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_keys_go_where_every_other_client_puts_them() -> None:
    """The hash values of Kafka's own tests: a Java producer of the same key meets our order."""
    assert a_kafka_cluster is not None
    from kafka.partitioner import murmur2

    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"abc": 479470107,
    }
    assert {key: murmur2(key) for key in known} == {
        key: value & 0xFFFFFFFF for key, value in known.items()
    }


class Admin:
    """A cluster of so many brokers that are alive; it remembers what it was told to make."""

    def __init__(self, n_alive: int) -> None:
        self._n_alive = n_alive
        self.made: dict[str, Any] = {}

    def describe_cluster(self) -> dict[str, Any]:
        """As the client's."""
        return {"brokers": list(range(self._n_alive))}

    def create_topics(self, topics: dict[str, Any]) -> None:
        """As the client's."""
        self.made |= topics


def named(n_servers: int) -> EventSettings:
    """Settings that name so many brokers."""
    servers = tuple(f"k{n}:9092" for n in range(n_servers))
    return EventSettings(backend="kafka", kafka=KafkaSettings(bootstrap_servers=servers))


@pytest.mark.parametrize(
    ("n_servers", "n_alive", "n_copies"), [(1, 1, 1), (2, 2, 2), (1, 3, 3), (3, 3, 3), (5, 4, 3)]
)
def test_the_topic_is_made_with_three_copies_where_there_are_brokers_for_them(
    caplog: pytest.LogCaptureFixture, n_servers: int, n_alive: int, n_copies: int
) -> None:
    """Two of the three must have a write; fewer than three copies are said aloud."""
    admin, settings = Admin(n_alive), named(n_servers)
    with caplog.at_level(logging.WARNING):
        _create(admin, settings)
    made = admin.made[settings.kafka.topic]
    assert made["replication_factor"] == n_copies
    assert made["configs"] == ({"min.insync.replicas": "2"} if n_copies == 3 else {})
    assert bool(caplog.records) == (n_copies < 3)


@pytest.mark.parametrize(("n_servers", "n_alive"), [(2, 1), (3, 1), (3, 2), (5, 2), (1, 0)])
def test_no_topic_is_made_while_brokers_are_away(n_servers: int, n_alive: int) -> None:
    """It would keep too few copies for ever; the writer spools and tries again."""
    admin = Admin(n_alive)
    with pytest.raises(StoreError, match=f"{n_alive} of the brokers are alive, expected"):
        _create(admin, named(n_servers))
    assert admin.made == {}
