"""HAProxy as `cluster up` starts it, in front of any address, without Ray."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cluster.local.environment import CLIENT_TIMEOUT_S, find_haproxy, haproxy_wrapper
from recsys.settings import Settings
from tests.lane_ports import free_ports
from tests.serving_faults.fault_load import await_that

_CONFIG = """global
    maxconn 4096
    nbthread 1
    tune.bufsize 16384
defaults
    mode http
    timeout connect 5s
    timeout client {client_s}s
    timeout server 30s
    option abortonclose
    option http-no-delay
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend gateway
backend gateway
    server only 127.0.0.1:{behind}
"""
"""What of Ray's configuration bears on callers; the wrapper changes the rest."""


@contextmanager
def haproxy_before(behind: int, folder: Path) -> Generator[int]:
    """Its port, while it runs in front of a port of the loopback address."""
    (port,) = free_ports(1)
    config = folder / "haproxy.cfg"
    config.write_text(_CONFIG.format(client_s=CLIENT_TIMEOUT_S, port=port, behind=behind))
    wrapper = folder / "haproxy"
    wrapper.write_text(haproxy_wrapper(Settings(), find_haproxy()))
    wrapper.chmod(0o700)
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([str(wrapper), "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        await_that(lambda: is_open(port) or process.poll() is not None, "HAProxy listening")
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield port
    finally:
        process.kill()
        process.wait()


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
