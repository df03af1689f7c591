"""The only module that speaks to Ray: start it, deploy to it, ask it, stop it.

Import it after the environment profile is set; Ray reads its flags at import.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.context import _get_global_client  # ruff: ignore[import-private-name]
from ray.serve.schema import ServeDeploySchema

from recsys.errors import FleetError

if TYPE_CHECKING:
    from recsys.settings import Settings

MIB = 1024 * 1024


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
