"""The Ray Serve application `workers`: the followers of the log and the scheduler of trainings.

`build` is what `serve deploy`, KubeRay and `cluster up` name as the application; it has no route.
What a follower needs is imported in its own replicas only.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.metrics import Counter, Gauge

from recsys.errors import StoreError
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES
from train_app.following.follow_log import Progress
from train_app.following.worker_replica import Worker, give_way
from train_app.scheduling.scheduler_replica import SchedulerReplica

APP_NAME = "workers"
WORKER_CPUS = 0.1
"""Admission tokens of Ray, not a reservation of cores."""
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_GAUGES = {
    "flywheel_worker_lag_records": ("lag_records", "Records of the log not yet taken in."),
    "flywheel_worker_freshness_s": ("freshness_s", "Age of the oldest record not yet taken in."),
}
_COUNTERS = {
    "flywheel_worker_records": ("n_records", "Records taken in."),
    "flywheel_worker_bad_records": ("n_bad", "Records that are no event."),
    "flywheel_worker_missed_records": ("n_missed", "Records gone before they could be read."),
    "flywheel_worker_repeated_records": ("n_repeated", "Records of events counted before."),
}
LAKE_GAP = "lake_gap_records_total"
"""Named by the operator's alarm; what the archiver's `missed_records` counts."""


class WorkerReplica:
    """One replica of one follower.

    Args:
        settings: the resolved settings as a JSON document.
        worker: which follower.
        others: named so that Serve deploys them with this application.
    """

    def __init__(self, settings: dict[str, Any], worker: str, others: tuple[Any, ...] = ()) -> None:
        replica_id = serve.get_replica_context().replica_id.unique_id
        self._metrics = WorkerMetrics(worker)
        self._others = others
        # Before the worker starts its threads: they take over this one's priority.
        give_way(worker)
        self._worker = Worker(Settings.model_validate(settings), worker, replica_id)

    def check_health(self) -> None:
        """Called by Ray Serve, which restarts the replica where this raises."""
        self._metrics.show(self._worker.progress())
        problem = self._worker.problem()
        if problem is not None:
            raise StoreError(problem)

    def progress(self) -> dict[str, Any]:
        """What this replica follows, and how far it has come."""
        return asdict(self._worker.progress()) | {"partitions": sorted(self._worker.partitions())}

    def __del__(self) -> None:
        """Called by Ray Serve before the replica ends."""
        if hasattr(self, "_worker"):
            self._worker.stop()


class WorkerMetrics:
    """The series of one replica; Ray adds the replica, this adds the worker."""

    def __init__(self, worker: str) -> None:
        self._tags = {"worker": worker}
        named = dict(_COUNTERS)
        if worker == ARCHIVER:
            named[LAKE_GAP] = ("n_missed", "Records of the log that the lake will never have.")
        self._gauges = [
            (field, Gauge(name, text, tag_keys=("worker",)))
            for name, (field, text) in _GAUGES.items()
        ]
        self._counters = [
            (field, Counter(name, text, tag_keys=("worker",)))
            for name, (field, text) in named.items()
        ]
        self._shown = Progress()

    def show(self, progress: Progress) -> None:
        """Hand over what has changed since the last call."""
        for field, gauge in self._gauges:
            gauge.set(getattr(progress, field), tags=self._tags)
        for field, counter in self._counters:
            grown = getattr(progress, field) - getattr(self._shown, field)
            if grown > 0:
                counter.inc(grown, tags=self._tags)
        self._shown = progress


def build(args: dict[str, Any]) -> Application:
    """The application `workers`.

    Args:
        args: `settings`, the resolved settings as a JSON document.
    """
    settings = Settings.model_validate(args["settings"])
    document = settings.model_dump(mode="json")
    workers = settings.workers
    archiver = _deployment("Archiver", workers.archiver_replicas).bind(document, ARCHIVER)
    evidence = _deployment("EvidenceStream", workers.evidence_replicas).bind(document, EVIDENCE)
    features = _deployment("FeatureStream", workers.feature_replicas)
    others = [archiver, evidence]
    if settings.schedule.train != "off":
        others.append(_deployment("Scheduler", 1, SchedulerReplica).bind(document))
    application: Application = features.bind(document, FEATURES, tuple(others))
    return application


def _deployment(name: str, n_replicas: int, replica: type = WorkerReplica) -> Any:
    return serve.deployment(
        name=name,
        num_replicas=n_replicas,
        # The stores stand overlapping followers, but one less is one less to wait for.
        max_surge_percent=0,
        graceful_shutdown_timeout_s=15,
        health_check_period_s=5,
        health_check_timeout_s=20,
        ray_actor_options={"num_cpus": WORKER_CPUS},
        logging_config=LOGGING,
    )(replica)
