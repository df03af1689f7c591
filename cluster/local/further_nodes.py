"""Ray nodes of a local cluster beyond its head, each a process of the run; joined before Serve.

They share the machine's address and take free ports, so that replicas are spread over nodes as they
are over machines.
"""

from __future__ import annotations

import os
import subprocess
import time
from threading import Event
from typing import TYPE_CHECKING

from recsys.errors import FleetError

if TYPE_CHECKING:
    from recsys.settings import Settings

JOIN_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
"""With the 0 of the profile Ray joins no node; the address that it gives is an argument here."""
_POLL_S = 0.2


def join_nodes(settings: Settings, stop: Event) -> None:
    """Start them as children of this process and wait until the head counts them, or `stop`.

    Children end with the run: they carry its id, and a node whose head is gone ends by itself.

    Raises:
        FleetError: one ended, or did not join in time.
    """
    from cluster.local import fleet

    wanted = settings.cluster.nodes
    command, environment = fleet.join_command(settings), os.environ | JOIN_ENVIRONMENT
    children = [subprocess.Popen(command, env=environment) for _ in range(wanted - 1)]
    give_up_s = time.monotonic() + settings.cluster.start_timeout_s
    while (found := fleet.n_living_nodes()) < wanted and not stop.is_set():
        ended = [child.returncode for child in children if child.poll() is not None]
        if ended or time.monotonic() > give_up_s:
            why = f"one ended with exit code {ended[0]}" if ended else "the others did not join"
            raise FleetError(
                f"{found} ray nodes live, expected {wanted} (cluster.nodes): {why}; see "
                f"{settings.run_dir}/supervisor.log"
            )
        stop.wait(_POLL_S)
