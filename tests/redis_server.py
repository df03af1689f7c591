"""A real redis-server of the tests' own: append-only file on, a free port, killed and restarted.

Knows processes and sockets; nothing of what is kept in it.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lane_ports import free_ports

START_TIMEOUT_S = 20.0
_POLL_S = 0.01


class RedisServer:
    """One server with its data in a directory; what it keeps survives `kill` and `start`."""

    def __init__(self, directory: Path, password: str = "", arguments: Sequence[str] = ()) -> None:
        self.directory = directory
        self.password = password
        self._arguments = list(arguments)
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, without the password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start on the same port with what the directory holds; returns when it answers."""
        assert self._process is None
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self.directory), "--save", "", "--appendonly", "yes"]
        command += ["--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        if self.password:
            command += ["--requirepass", self.password]
        command += self._arguments
        log = (self.directory / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._await_answer()

    def kill(self) -> None:
        """SIGKILL; the append-only file stays."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it if it runs; nothing of it is left running."""
        if self._process is not None:
            self.resume()
            self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: the port takes connections and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def forget_everything(self) -> None:
        """Remove the data of a server that is not running."""
        assert self._process is None
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _await_answer(self) -> None:
        assert self._process is not None
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up_at and self._process.poll() is None:
            if self._answers():
                return
            time.sleep(_POLL_S)
        log = (self.directory / "server.log").read_text(errors="replace")
        pytest.fail(f"redis-server did not start on port {self.port}: {log[-2000:]}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                # A server with a password answers that it wants one; one that loads says so.
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@contextmanager
def a_redis_server(
    directory: Path, password: str = "", arguments: Sequence[str] = ()
) -> Generator[RedisServer, None, None]:
    """A started server, stopped at the end; skips the test where there is no redis-server."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the path; this test needs a real server")
    server = RedisServer(directory, password, arguments)
    try:
        server.start()
        yield server
    finally:
        server.stop()
