"""The Ray Serve application `control`: the controller of rollouts, beside what it rolls out.

`build` is what `serve deploy`, KubeRay and `cluster up` name as the application; it has no route.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from ray import serve
from ray.serve import Application

from cluster.rollouts.driving.alarms import Alarms
from cluster.rollouts.driving.controller_loop import ControllerLoop, now_ms, open_controller
from recsys.errors import FleetError
from recsys.settings import Settings

APP_NAME = "control"
CONTROLLER_CPUS = 0.1
"""Admission tokens of Ray, not a reservation of cores."""
_NICENESS = 3
"""An answer goes first; reading evidence may take a moment longer."""
LOGGING = {"log_level": "WARNING", "enable_access_log": False}


class RolloutController:
    """One replica of the controller; more than one is safe, and one of them works.

    Args:
        settings: the resolved settings as a JSON document.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        replica_id = serve.get_replica_context().replica_id.unique_id
        os.nice(_NICENESS)
        name = f"controller@{socket.gethostname()}:{os.getpid()}:{replica_id}"
        resolved = Settings.model_validate(settings)
        controller = open_controller(resolved, name, Alarms(resolved, now_ms).tell)
        self._loop = ControllerLoop(controller.turn, controller.let_go)

    def check_health(self) -> None:
        """Called by Ray Serve, which restarts the replica where this raises."""
        problem = self._loop.problem()
        if problem is not None:
            raise FleetError(problem)

    def __del__(self) -> None:
        """Called by Ray Serve before the replica ends."""
        if hasattr(self, "_loop"):
            self._loop.stop()


def build(args: dict[str, Any]) -> Application:
    """The application `control`.

    Args:
        args: `settings`, the resolved settings as a JSON document.
    """
    settings = Settings.model_validate(args["settings"])
    deployment = serve.deployment(
        name="RolloutController",
        num_replicas=1,
        max_surge_percent=0,
        graceful_shutdown_timeout_s=15,
        health_check_period_s=5,
        health_check_timeout_s=20,
        ray_actor_options={"num_cpus": CONTROLLER_CPUS},
        logging_config=LOGGING,
    )(RolloutController)
    application: Application = deployment.bind(settings.model_dump(mode="json"))
    return application
