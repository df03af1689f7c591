"""A real S3 gateway of the tests' own over a folder: Versity's, a Go module.

Skips where it cannot be had; `make servers` builds it into the cache.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers.stores.store_programs import BUCKET, S3_GATEWAY, s3_command, s3_gateway

START_TIMEOUT_S = 30.0
_POLL_S = 0.02


class S3Server:
    """One gateway; what it keeps stands under `directory` and outlives it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._keys = ("flywheel", secrets.token_hex(16))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = int(found.getsockname()[1])

    @property
    def environment(self) -> Mapping[str, str]:
        """What a client finds it by."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self._keys[0],
            "AWS_SECRET_ACCESS_KEY": self._keys[1],
        }

    def new_url(self) -> str:
        """A prefix that nobody has written to."""
        return f"s3://{BUCKET}/{uuid.uuid4().hex}"

    def start(self) -> None:
        """Run it until it answers."""
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                s3_command(self.directory, self.port),
                stdout=log, stderr=log,
                env={**os.environ, "ROOT_ACCESS_KEY": self._keys[0],
                     "ROOT_SECRET_KEY": self._keys[1]},
            )  # fmt: skip
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            text = (self.directory / "server.log").read_text(errors="replace")
            assert self._process.poll() is None, f"{S3_GATEWAY} has ended: {text[-2000:]}"
            assert time.monotonic() < give_up_s, f"{S3_GATEWAY} does not answer: {text[-2000:]}"
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL; what it acknowledged stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=START_TIMEOUT_S)
            self._process = None

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1).close()
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False
        return True


@contextmanager
def an_s3_server(directory: Path) -> Generator[S3Server]:
    """A started gateway, ended with the block; skips the test where there is no program."""
    if s3_gateway() is None:
        pytest.skip(f"no real S3 server: {S3_GATEWAY} is not built; run 'make servers'")
    server = S3Server(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()
