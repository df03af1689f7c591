"""The Ray Serve application `workers`: the loops that learn while serving goes on.

`build` is what `serve deploy`, KubeRay and `cluster up` name as the application; it has no route.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.metrics import Gauge

from recsys.errors import StoreError
from recsys.settings import Settings
from recsys.stores.event_log import SqliteEventLog
from train_app.following.follow_log import FollowLoop
from train_app.following.stream_features import FeatureStream

APP_NAME = "workers"
WORKER_CPUS = 0.1
"""Admission tokens of Ray, not a reservation of cores."""
LOGGING = {"log_level": "WARNING", "enable_access_log": False}


class FeatureStreamReplica:
    """Keeps the feature store in step with the event log, in a thread of this replica."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.model_validate(settings)
        self._lag = Gauge("flywheel_feature_lag_records", "Events not yet in the feature store.")
        self._log: SqliteEventLog | None = None
        self._loop = FollowLoop(self._open_stream, self._settings.features.poll_interval_s)

    def check_health(self) -> None:
        """Called by Ray Serve, which restarts the replica where this raises."""
        self._lag.set(self._loop.lag_records)
        problem = self._loop.problem()
        if problem is not None:
            raise StoreError(problem)

    def progress(self) -> dict[str, int]:
        """Records taken in since the start, and records behind."""
        return {"n_records": self._loop.n_records, "lag_records": self._loop.lag_records}

    def __del__(self) -> None:
        """Called by Ray Serve before the replica ends."""
        if hasattr(self, "_loop"):
            self._loop.stop()

    def _open_stream(self) -> FeatureStream:
        """A stream on a freshly opened log: after a failure either may be at fault."""
        if self._log is not None:
            self._log.close()
        self._log = SqliteEventLog(self._settings.log_path, self._settings.events.n_partitions)
        return FeatureStream(self._log, self._settings.feature_path, self._settings)


def build(args: dict[str, Any]) -> Application:
    """The application `workers`.

    Args:
        args: `settings`, the resolved settings as a JSON document.
    """
    settings = Settings.model_validate(args["settings"])
    worker = serve.deployment(
        name="FeatureStream",
        num_replicas=1,
        # The store stands two followers at once, but one less is one less to wait for.
        max_surge_percent=0,
        graceful_shutdown_timeout_s=15,
        health_check_period_s=5,
        health_check_timeout_s=20,
        ray_actor_options={"num_cpus": WORKER_CPUS},
        logging_config=LOGGING,
    )(FeatureStreamReplica)
    return worker.bind(settings.model_dump(mode="json"))
