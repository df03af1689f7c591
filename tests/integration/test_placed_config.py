"""A placed serve configuration deploys on a Ray whose node offers the groups' resources."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import serve

from cluster.kubernetes.service_document import group_resource, kubernetes_serve_config
from cluster.local import fleet
from recsys.settings import Settings

pytestmark = pytest.mark.integration

FOLLOWING = ("workers", "control")
"""The applications that need no bundle to start."""
DEPLOYED_TIMEOUT_S = 90


@pytest.fixture
def ray_with_groups() -> Iterator[None]:
    """A node that offers the resource of the group `workers` and of no other."""
    ray.init(
        address="local",
        num_cpus=2,
        resources={group_resource("workers"): 1},
        include_dashboard=False,
        log_to_driver=False,
        namespace="serve",
    )
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_with_groups")
def test_a_placed_configuration_deploys_where_its_group_is(tmp_path: Path) -> None:
    """Every replica finds the resource that it asks for, and runs."""
    settings = Settings.model_validate({"data_dir": tmp_path})
    config = kubernetes_serve_config(settings, one_node=False)
    config["proxy_location"] = "Disabled"
    config["applications"] = [a for a in config["applications"] if a["name"] in FOLLOWING]
    fleet.deploy(config)
    deadline = time.monotonic() + DEPLOYED_TIMEOUT_S
    found = fleet.application_status()["applications"]
    while {a["status"] for a in found.values()} != {"RUNNING"} and time.monotonic() < deadline:
        time.sleep(0.2)
        found = fleet.application_status()["applications"]
    assert {name: a["status"] for name, a in found.items()} == dict.fromkeys(FOLLOWING, "RUNNING")
    free = ray.available_resources()[group_resource("workers")]
    n_replicas = sum(len(a["deployments"]) for a in found.values())
    assert free == pytest.approx(1 - 0.001 * n_replicas)
