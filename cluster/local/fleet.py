"""The only module that speaks to Ray: start it, deploy to it, ask it, stop it.

Import it after the environment profile is set; Ray reads its flags at import.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray._private.node import Node  # ruff: ignore[import-private-name]
from ray._private.parameter import RayParams  # ruff: ignore[import-private-name]
from ray.serve.context import _get_global_client  # ruff: ignore[import-private-name]
from ray.serve.schema import ServeDeploySchema

from recsys.errors import FleetError

if TYPE_CHECKING:
    from recsys.settings import Settings

MIB = 1024 * 1024
NODE_ADDRESS = "127.0.0.1"
"""Of every node of a local cluster; see `environment.ray_environment`."""
_POLL_S = 0.2


def start_ray(settings: Settings, temp_dir: Path) -> None:
    """Start a Ray head of this process: it dies with the calling thread.

    Raises:
        FleetError: Ray did not start.
    """
    try:
        ray.init(
            address="local",
            num_cpus=settings.cluster.logical_cpus,
            object_store_memory=settings.cluster.object_store_mb * MIB,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=str(temp_dir / "ray"),
            _metrics_export_port=settings.cluster.metrics_port,
        )
    except Exception as error:
        raise FleetError(
            f"ray did not start ({error}), expected a local head on port "
            f"{settings.cluster.ray_port}; see {temp_dir}/ray/session_latest/logs and run "
            "'cluster doctor'"
        ) from error


def join_nodes(settings: Settings) -> None:
    """Start the Ray nodes beyond the head and wait until it counts them.

    They share the machine's address and take free ports, so that replicas are spread over nodes
    as they are over machines; their raylets are children of this process and die with the calling
    thread. `ray start` joins no node to a head on the loopback address, so they are made as Ray's
    own tests make theirs (`ray.cluster_utils.Cluster`).

    Raises:
        FleetError: one did not start, or did not join in time.
    """
    wanted = settings.cluster.nodes
    try:
        for _ in range(wanted - 1):
            Node(_further_node(settings), shutdown_at_exit=False)
    except Exception as error:
        raise FleetError(
            f"a further ray node did not start ({error}), expected {wanted} nodes (cluster.nodes); "
            "set cluster.nodes=1 (FLYWHEEL__CLUSTER__NODES), or run 'cluster doctor'"
        ) from error
    give_up_s = time.monotonic() + settings.cluster.start_timeout_s
    while (found := _n_living_nodes()) < wanted:
        if time.monotonic() > give_up_s:
            raise FleetError(
                f"{found} ray nodes live after {settings.cluster.start_timeout_s} s, expected "
                f"{wanted} (cluster.nodes); raise cluster.start_timeout_s or ask for fewer"
            )
        time.sleep(_POLL_S)


def _n_living_nodes() -> int:
    """Ray nodes that the head counts as alive."""
    return sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]


def _further_node(settings: Settings) -> RayParams:
    return RayParams(
        gcs_address=f"{NODE_ADDRESS}:{settings.cluster.ray_port}",
        node_ip_address=NODE_ADDRESS,
        num_cpus=settings.cluster.logical_cpus,
        object_store_memory=settings.cluster.object_store_mb * MIB,
        # 0 and None are free ports; the head has the ports that are documented.
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=None,
        include_log_monitor=False,  # type: ignore[arg-type]  # a flag, whatever Ray's hint says
    )


def start_serve(config: dict[str, Any]) -> None:
    """Start Serve with its HTTP ingress.

    Raises:
        FleetError: the ingress did not come up.
    """
    try:
        serve.start(
            proxy_location=config["proxy_location"],
            http_options=config["http_options"],
            logging_config=config["logging_config"],
        )
    except Exception as error:
        raise FleetError(
            f"ray serve did not start ({error}), expected its ingress on port "
            f"{config['http_options']['port']}; run 'cluster doctor'"
        ) from error


def deploy(config: dict[str, Any]) -> None:
    """Hand the whole declarative configuration to Serve, as `serve run FILE` does.

    The client is Serve's own but not public; its public door, the REST interface, needs the
    dashboard, and `serve.run` cannot deploy declaratively.

    Raises:
        FleetError: Serve refuses the configuration.
    """
    client = _get_global_client()
    if client is None:
        raise FleetError("ray serve has no controller, expected it to run; run 'cluster doctor'")
    try:
        client.deploy_apps(ServeDeploySchema.model_validate(config))
    except Exception as error:
        raise FleetError(
            f"ray serve refused the configuration ({error}), expected it to start deploying"
        ) from error


def application_status() -> dict[str, Any]:
    """What Serve says of its ingress, applications and deployments."""
    status = serve.status()
    return {
        "proxies": {node: proxy.value for node, proxy in status.proxies.items()},
        "applications": {
            name: {
                "status": application.status.value,
                "message": application.message,
                "deployments": {
                    deployment: {
                        "status": found.status.value,
                        "message": found.message,
                        "replicas": {
                            getattr(state, "value", state): count
                            for state, count in found.replica_states.items()
                        },
                    }
                    for deployment, found in application.deployments.items()
                },
            }
            for name, application in status.applications.items()
        },
    }


def stop() -> None:
    """Stop Serve, then Ray; each also if the other fails."""
    try:
        serve.shutdown()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
