"""Ports for what a test starts: below the ephemeral ones, and never the same in two lanes."""

from __future__ import annotations

import os
import random
from itertools import islice

from brokers.broker_ports import why_taken

_FIRST_PORT, _PORTS_PER_LANE, _N_LANES = 10_000, 2_500, 4
"""Clear of the brokers' ports, which begin at 20,000."""


def free_ports(n_ports: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now, and no other lane takes."""
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    assert lane < _N_LANES, f"lane {lane} has no ports of its own; run at most {_N_LANES} lanes"
    first = _FIRST_PORT + lane * _PORTS_PER_LANE
    order = random.SystemRandom().sample(range(first, first + _PORTS_PER_LANE), _PORTS_PER_LANE)
    free = list(islice((port for port in order if why_taken(port) is None), n_ports))
    assert len(free) == n_ports, f"only {len(free)} free ports from {first} on"
    return free
