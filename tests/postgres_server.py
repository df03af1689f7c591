"""A real Postgres server of the tests' own, reached through a socket in its own folder.

Skips where the server or the Python driver is missing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from brokers.stores.store_programs import postgres_programs

START_TIMEOUT_S = 30.0
_POLL_S = 0.02


class PostgresServer:
    """One running server; every database and schema of it is made anew."""

    def __init__(self, sockets: Path, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._sockets = sockets
        self._start = start
        self._n_databases = 0
        self._process = start()
        self.await_answer()

    def new_database(self) -> str:
        """The SQLAlchemy URL of an empty database."""
        self._n_databases += 1
        name = f"test{self._n_databases}"
        with self._connect("postgres") as connection:
            connection.autocommit = True
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self._sockets}"

    def new_schema(self) -> str:
        """The URL of a user who sees an empty schema of his own; quicker than a database."""
        self._n_databases += 1
        name = f"user{self._n_databases}"
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
            connection.execute(f"CREATE SCHEMA {name}")
            connection.execute(f"ALTER ROLE {name} SET search_path = {name}")
        return f"postgresql+psycopg://{name}@/postgres?host={self._sockets}"

    @contextmanager
    def killed(self) -> Generator[None]:
        """Without the server while the block runs; it recovers from its log afterwards."""
        self._process.kill()
        self._process.wait(timeout=START_TIMEOUT_S)
        try:
            yield
        finally:
            self._process = self._start()
            self.await_answer()

    def stop(self) -> None:
        """End it; SIGINT does not wait for connections that a failed test left open."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=START_TIMEOUT_S)

    def await_answer(self) -> None:
        """Return when it takes connections."""
        import psycopg

        give_up_s = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self._process.poll() is None, "postgres has ended; see its log"
            try:
                self._connect("postgres").close()
            except psycopg.OperationalError:
                assert time.monotonic() < give_up_s, "postgres does not answer"
                time.sleep(_POLL_S)
            else:
                return

    def _connect(self, database: str) -> Any:
        import psycopg

        return psycopg.connect(host=str(self._sockets), user="postgres", dbname=database)


@contextmanager
def a_postgres_server() -> Generator[PostgresServer]:
    """A server whose data is gone in the end."""
    pytest.importorskip("psycopg", reason="no real server: the driver psycopg is not installed")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no real server: postgres is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    identity = _identity(folder)
    log = (folder / "log").open("wb")
    try:
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-N"],
            check=True, stdout=log, stderr=log, cwd=folder, **identity,
        )  # fmt: skip
        server = PostgresServer(folder, partial(_start, programs, folder, log, identity))
        try:
            yield server
        finally:
            server.stop()
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    programs: Path, folder: Path, log: BinaryIO, identity: dict[str, Any]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            programs / "postgres", "-D", folder / "data", "-k", folder,
            "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB",
        ],
        stdout=log, stderr=log, cwd=folder, **identity,
    )  # fmt: skip


def _identity(folder: Path) -> dict[str, Any]:
    """Postgres refuses to run as root; it runs as its own user then."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("no real server: postgres needs a user other than root")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
