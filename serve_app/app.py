"""The graph in one place: which deployments there are and how they are bound.

`build` is what `serve deploy`, KubeRay and `cluster up` name as the application.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from recsys.settings import Settings
from recsys.stages import ORDERING, SCORER, shard_stage_name
from serve_app.gateway import GatewayReplica
from serve_app.stages.stage_replica import StageReplica

APP_NAME = "recommend"
ROUTE_PREFIX = "/"

REPLICA_CPUS = 0.1
"""Admission tokens of Ray, not a reservation: a rolling upgrade holds two generations at once."""
MAX_ONGOING_STAGE_CALLS = 1000
"""Far above what a gateway sends: near the limit Serve's router probes replicas and stalls."""
SHUTDOWN_TIMEOUT_S = 40.0
LOGGING = {"log_level": "WARNING", "enable_access_log": False}


def build(args: dict[str, Any]) -> Application:
    """The application `recommend`.

    Args:
        args: `settings`, the resolved settings as a JSON document.
    """
    settings = Settings.model_validate(args["settings"])
    document = settings.model_dump(mode="json")
    stages: dict[str, Any] = {}
    if settings.serve.placement != "fused":
        stages = _stage_deployments(settings, document)
    gateway = serve.deployment(
        name="Gateway",
        num_replicas=settings.serve.gateway_replicas,
        # Admission is the gateway's own; Serve's limits stand behind it.
        max_ongoing_requests=4 * settings.serve.max_concurrent,
        max_queued_requests=4 * settings.serve.max_concurrent,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=SHUTDOWN_TIMEOUT_S,
        health_check_period_s=5,
        health_check_timeout_s=20,
        ray_actor_options={"num_cpus": REPLICA_CPUS},
        logging_config=LOGGING,
    )(serve.ingress()(GatewayReplica))
    return gateway.bind(document, stages)


def _stage_deployments(settings: Settings, document: dict[str, Any]) -> dict[str, Any]:
    serving = settings.serve
    stages = {
        SCORER: _stage("Scorer", SCORER, serving.scorer_replicas, document),
        ORDERING: _stage("Ordering", ORDERING, serving.ordering_replicas, document),
    }
    for shard in range(settings.retrieval.n_shards):
        name = shard_stage_name(shard)
        stages[name] = _stage(f"Shard{shard}", name, serving.shard_replicas, document)
    return stages


def _stage(name: str, stage: str, n_replicas: int, document: dict[str, Any]) -> Any:
    return serve.deployment(
        name=name,
        num_replicas=n_replicas,
        max_ongoing_requests=MAX_ONGOING_STAGE_CALLS,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=SHUTDOWN_TIMEOUT_S / 2,
        health_check_period_s=5,
        health_check_timeout_s=20,
        ray_actor_options={"num_cpus": REPLICA_CPUS},
        logging_config=LOGGING,
    )(StageReplica).bind(stage, document)
