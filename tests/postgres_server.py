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
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

START_TIMEOUT_S = 30.0
_POLL_S = 0.02


class PostgresServer:
    """One running server; every database of it is made anew."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._n_databases = 0

    def new_database(self) -> str:
        """The SQLAlchemy URL of an empty database."""
        self._n_databases += 1
        name = f"test{self._n_databases}"
        with self._connect("postgres") as connection:
            connection.autocommit = True
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self._sockets}"

    def await_answer(self, process: subprocess.Popen[bytes]) -> None:
        """Return when it takes connections."""
        import psycopg

        give_up_s = time.monotonic() + START_TIMEOUT_S
        while True:
            assert process.poll() is None, "postgres has ended; see its log"
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
    programs = _programs()
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
        process = subprocess.Popen(
            [
                programs / "postgres", "-D", folder / "data", "-k", folder,
                "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB",
            ],
            stdout=log, stderr=log, cwd=folder, **identity,
        )  # fmt: skip
        try:
            server = PostgresServer(folder)
            server.await_answer(process)
            yield server
        finally:
            # SIGINT does not wait for connections that a failed test left open.
            process.send_signal(signal.SIGINT)
            process.wait(timeout=START_TIMEOUT_S)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


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
