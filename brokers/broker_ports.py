"""Free ports of the loopback address for brokers that keep theirs over a restart."""

from __future__ import annotations

import random
import socket

_FIRST_PORT, _END_PORT = 20_000, 29_000
"""Below the ephemeral ports: there a client that calls a dead broker can be given its port."""


def free_ports(n_ports: int) -> list[int]:
    """Ports of the loopback address that nobody listens on, below the ephemeral ones."""
    ports: list[int] = []
    while len(ports) < n_ports:
        port = random.SystemRandom().randrange(_FIRST_PORT, _END_PORT)
        if port not in ports and why_taken(port) is None:
            ports.append(port)
    return ports


def why_taken(port: int) -> str | None:
    """Why nobody can listen on a port of the loopback address; None where one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror
    return None
