"""Production's stores on the loopback address: started together, killed together, taken up again.

What they keep, and the passwords and keys they were made with, lie in one folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from brokers.broker_process import BrokerProcess
from brokers.jars import BrokerError, missing_programs
from brokers.kafka_cluster import KafkaCluster
from brokers.stores.store_programs import (
    DATABASES,
    make_cluster,
    make_databases,
    missing_stores,
    postgres_command,
    redis_command,
    s3_command,
)

START_TIMEOUT_S = 180.0
"""Beside trainings on two cores a start has taken 80 s."""
_POLL_S = 0.05
_N_BROKERS = 3


@dataclass(frozen=True, slots=True)
class StorePorts:
    """Where the stores listen; brokers take three ports from `kafka` on."""

    kafka: int = 9092
    redis: int = 6379
    postgres: int = 5432
    s3: int = 7070


class LocalStores:
    """Three brokers, Redis, Postgres and an S3 gateway; as a context manager they end with it.

    Args:
        directory: all they keep; taken up again where there is something.
        ports: where they listen.
        say: told what takes time.

    Raises:
        BrokerError: a program is missing.
    """

    def __init__(
        self, directory: Path, ports: StorePorts, say: Callable[[str], None] = lambda _: None
    ) -> None:
        problem = missing_programs() or missing_stores()
        if problem is not None:
            raise BrokerError(problem)
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._ports = ports
        self._say = say
        self._secrets = _secrets_in(self.directory / "secrets.json")
        self._processes: dict[str, BrokerProcess] = {}
        self._kafka = KafkaCluster(_N_BROKERS, self.directory / "kafka", port=ports.kafka, say=say)

    @property
    def environment(self) -> Mapping[str, str]:
        """What `configs/prod-local.toml` lacks: addresses, passwords and keys."""
        control, evidence = (
            f"postgresql+psycopg://flywheel@127.0.0.1:{self._ports.postgres}/{name}"
            for name in DATABASES
        )
        return {
            "FLYWHEEL__CONTROL_STORE_URL": control,
            "FLYWHEEL__EVIDENCE_STORE_URL": evidence,
            "FLYWHEEL__EVENTS__KAFKA__BOOTSTRAP_SERVERS": json.dumps(self._kafka.bootstrap_servers),
            "FLYWHEEL__FEATURES__REDIS_URL": f"redis://127.0.0.1:{self._ports.redis}/0",
            "FLYWHEEL_REDIS_PASSWORD": self._secrets["redis"],
            "PGPASSWORD": self._secrets["postgres"],
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports.s3}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "flywheel",
            "AWS_SECRET_ACCESS_KEY": self._secrets["s3"],
        }

    def start(self) -> None:
        """Run all of them until each answers, with what it had kept; says how in `environment`.

        Raises:
            BrokerError: one does not answer.
        """
        make_cluster(self.directory / "postgres", self._secrets["postgres"])
        password = self.directory / "redis.conf"
        _write_private(password, f"requirepass {self._secrets['redis']}\n")
        redis = redis_command(self.directory / "redis", self._ports.redis, password)
        keys = {"ROOT_ACCESS_KEY": "flywheel", "ROOT_SECRET_KEY": self._secrets["s3"]}
        self._run("redis", redis, self._ports.redis)
        self._run("s3", s3_command(self.directory / "s3", self._ports.s3), self._ports.s3, keys)
        postgres = postgres_command(self.directory / "postgres", self._ports.postgres)
        self._run("postgres", postgres, self._ports.postgres)
        self._kafka.start_all(START_TIMEOUT_S)
        for name in self._processes:
            self._await_port(name)
        self._make_databases()
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        _write_private(self.directory / "environment", "".join(lines))

    def kill(self) -> None:
        """SIGKILL everything at once."""
        for index in range(_N_BROKERS):
            self._kafka.kill(index)
        for process in self._processes.values():
            process.end()
        self._processes.clear()

    def dead(self) -> list[str]:
        """Which of those that were started have ended."""
        gone = [name for name, process in self._processes.items() if not process.is_alive()]
        return gone + (["kafka"] if len(self._kafka.pids) < _N_BROKERS else [])

    def __enter__(self) -> LocalStores:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _run(
        self, name: str, command: list[str], port: int, keys: Mapping[str, str] | None = None
    ) -> None:
        self._say(f"starting {name} on 127.0.0.1:{port}")
        log = self.directory / f"{name}.log"
        self._processes[name] = BrokerProcess(command, log, environment=keys)

    def _await_port(self, name: str) -> None:
        give_up_s = time.monotonic() + START_TIMEOUT_S
        port = {"redis": self._ports.redis, "s3": self._ports.s3}.get(name, self._ports.postgres)
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            process = self._processes[name]
            if not process.is_alive() or time.monotonic() > give_up_s:
                raise BrokerError(f"{name} does not answer on port {port}: {process.tail()}")
            time.sleep(_POLL_S)

    def _make_databases(self) -> None:
        """Once Postgres has recovered; it takes connections before."""
        import psycopg

        give_up_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return make_databases(self._ports.postgres, self._secrets["postgres"])
            except psycopg.OperationalError as error:
                if time.monotonic() > give_up_s:
                    raise BrokerError(f"postgres does not answer: {error}") from error
            time.sleep(_POLL_S)


def _secrets_in(file: Path) -> dict[str, str]:
    """The passwords and keys of the folder, drawn at its first start."""
    if file.exists():
        found: dict[str, str] = json.loads(file.read_text())
        return found
    drawn = {name: secrets.token_hex(24) for name in ("redis", "postgres", "s3")}
    _write_private(file, json.dumps(drawn))
    return drawn


def _write_private(file: Path, text: str) -> None:
    """Write what only this user may read, never readable by others in between."""
    draft = file.with_name(file.name + ".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    draft.replace(file)
