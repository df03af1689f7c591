"""How the broker is reached, and the topic it must have; knows no events.

Makes the topic where it is missing and the broker allows that; nothing else writes its settings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from recsys.data_settings import EventSettings, KafkaSettings
from recsys.errors import ConfigError, StoreError
from recsys.stores.log.kafka_refusal import why_refused

_log = logging.getLogger(__name__)

PASSWORD_VARIABLE = "FLYWHEEL_KAFKA_PASSWORD"
_API_VERSION = (4, 3)
"""Said instead of asked for, so that a client can be made while no broker answers; an older broker
is found out at the first connection."""
_COPIES = 3
"""One broker may be away while another one fails."""
_RECONNECT_MAX_MS = 1_000
_MIN_REQUEST_TIMEOUT_MS = 100


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every client of the broker is made with.

    Raises:
        ConfigError: a user name is set and the environment holds no password.
    """
    _quiet_client()
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "api_version": _API_VERSION,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": request_timeout_ms(settings),
        "reconnect_backoff_max_ms": _RECONNECT_MAX_MS,
    }
    if "SASL" in settings.security_protocol:
        options |= _credentials(settings)
    if "SSL" in settings.security_protocol:
        files = {
            "ssl_cafile": settings.ssl_ca_file,
            "ssl_certfile": settings.ssl_cert_file,
            "ssl_keyfile": settings.ssl_key_file,
        }
        options |= {name: path for name, path in files.items() if path}
    return options


def request_timeout_ms(settings: KafkaSettings) -> int:
    """One request may take half the time of a delivery, so that another broker can be asked."""
    return max(_MIN_REQUEST_TIMEOUT_MS, int(settings.delivery_timeout_s * 500))


def _quiet_client() -> None:
    """The client logs every refused connection; what matters is raised, and said once by us."""
    logger = logging.getLogger("kafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _credentials(settings: KafkaSettings) -> dict[str, Any]:
    password = os.environ.get(PASSWORD_VARIABLE)
    if not settings.sasl_username or not password:
        raise ConfigError(
            f"events.kafka.security_protocol is {settings.security_protocol} with sasl_username"
            f" '{settings.sasl_username}' and {'a' if password else 'no'} password, expected both;"
            f" set events.kafka.sasl_username and the environment's {PASSWORD_VARIABLE}"
        )
    return {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": password,
    }


@contextmanager
def kafka_errors(settings: KafkaSettings) -> Generator[None, None, None]:
    """Translate what the client raises into `StoreError`, naming broker and topic."""
    from kafka.errors import KafkaError

    try:
        yield
    except (KafkaError, OSError) as error:
        raise StoreError(broker_sentence(settings, error)) from error


@contextmanager
def _told_why(settings: KafkaSettings) -> Generator[None, None, None]:
    """Where the client cannot say why no broker answers, ask one."""
    from kafka.errors import KafkaError

    try:
        yield
    except (KafkaError, OSError) as error:
        reason = why_refused(settings, PASSWORD_VARIABLE)
        if reason is None:
            raise
        servers = ",".join(settings.bootstrap_servers)
        raise StoreError(
            f"kafka at {servers}, topic {settings.topic}: a broker can be reached, but {reason}"
        ) from error


def broker_sentence(settings: KafkaSettings, error: BaseException | str) -> str:
    """What went wrong at the broker, and what to do."""
    what = error if isinstance(error, str) else f"{type(error).__name__}: {error}".rstrip(": ")
    servers = ",".join(settings.bootstrap_servers)
    return (
        f"kafka at {servers}, topic {settings.topic}: {what};"
        " check that the broker runs and events.kafka.bootstrap_servers names it"
    )


def ensure_topic(settings: EventSettings, timeout_s: float) -> None:
    """Return when the topic has the partitions that the settings say; make it where missing.

    Raises:
        ConfigError: it has another number of partitions, or cannot be made and what to do.
        StoreError: no broker answers, or too few to make the topic.
    """
    from kafka.admin import KafkaAdminClient

    kafka = settings.kafka
    timeout_ms = max(1, int(timeout_s * 1000))
    with kafka_errors(kafka):
        with _told_why(kafka):
            admin = KafkaAdminClient(**client_options(kafka), bootstrap_timeout_ms=timeout_ms)
        try:
            found = _n_partitions(admin, kafka.topic)
            if found is None:
                _create(admin, settings)
                admin.wait_for_topics([kafka.topic], timeout_ms=timeout_ms)
                found = _n_partitions(admin, kafka.topic)
        finally:
            admin.close()
    if found != settings.n_partitions:
        raise ConfigError(
            f"events.n_partitions is {settings.n_partitions}, but topic {kafka.topic} at"
            f" {','.join(kafka.bootstrap_servers)} has {found} partitions; set it to {found}, or"
            " name another topic in events.kafka.topic"
        )


def _n_partitions(admin: Any, topic: str) -> int | None:
    """None where the topic is missing."""
    from kafka import errors

    (described,) = admin.describe_topics([topic])
    error = errors.for_code(described["error_code"])
    if error is errors.UnknownTopicOrPartitionError:
        return None
    if error is not errors.NoError:
        raise error()
    return len(described["partitions"])


def _create(admin: Any, settings: EventSettings) -> None:
    from kafka import errors

    topic = settings.kafka.topic
    n_alive = len(admin.describe_cluster()["brokers"])
    n_expected = min(_COPIES, len(set(settings.kafka.bootstrap_servers)))
    if n_alive < n_expected:
        # A topic keeps the number of copies that it was made with.
        detail = (
            f"the topic is missing, and {n_alive} of the brokers are alive, expected {n_expected}"
            " to make it with so many copies"
        )
        raise StoreError(broker_sentence(settings.kafka, detail))
    replication = min(_COPIES, n_alive)
    wanted: dict[str, Any] = {
        "num_partitions": settings.n_partitions,
        "replication_factor": replication,
        "configs": {"min.insync.replicas": "2"} if replication == _COPIES else {},
    }
    try:
        admin.create_topics({topic: wanted})
    except errors.TopicAlreadyExistsError:
        return
    except errors.RetriableError:
        raise
    except errors.BrokerResponseError as error:
        raise ConfigError(
            f"topic {topic} is missing and could not be made ({type(error).__name__}: {error});"
            f" make it: kafka-topics.sh --create --topic {topic}"
            f" --partitions {settings.n_partitions} --replication-factor {replication}"
            + ("".join(f" --config {key}={value}" for key, value in wanted["configs"].items()))
        ) from error
    made = f"made topic {topic} with {settings.n_partitions} partitions, {replication} copies each"
    if replication < _COPIES:
        _log.warning(f"{made}: the loss of {replication} brokers' disks loses events")
    else:
        _log.info(made)
