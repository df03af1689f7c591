"""Each rule of the lint has an example that breaks it, and our own manifests break none."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.kubernetes import ray_cluster_rules, ray_object_rules
from cluster.kubernetes.ray_object_rules import object_problems

Change = Callable[[dict[str, Any]], None]


def pod() -> dict[str, Any]:
    """A template with Ray's container."""
    return {"spec": {"containers": [{"name": "ray", "image": "ray", "env": []}]}}


def cluster_spec() -> dict[str, Any]:
    """A cluster that the operator takes."""
    return {
        "rayVersion": "2.60.0",
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2"},
        "gcsFaultToleranceOptions": {"redisAddress": "rediss://redis:6379"},
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pod()},
        "workerGroupSpecs": [
            {
                "groupName": name,
                "minReplicas": 1,
                "maxReplicas": 2,
                "rayStartParams": {},
                "template": pod(),
            }
            for name in ("a", "b")
        ],
    }


def service() -> dict[str, Any]:
    """A service with an incremental upgrade."""
    options = {
        "gatewayClassName": "istio",
        "maxSurgePercent": 50,
        "stepSizePercent": 25,
        "intervalSeconds": 60,
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "flywheel", "annotations": {}},
        "spec": {
            "upgradeStrategy": {
                "type": "NewClusterWithIncrementalUpgrade",
                "clusterUpgradeOptions": options,
            },
            "rayClusterConfig": cluster_spec(),
        },
    }


def job() -> dict[str, Any]:
    """A job with a cluster of its own."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "train"},
        "spec": {
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 60,
            "rayClusterSpec": cluster_spec(),
        },
    }


def cron() -> dict[str, Any]:
    """A job each night."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": {"name": "nightly"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": job()["spec"]},
    }


def at(*path: str | int, value: Any) -> Change:
    """Sets a value at a path below `spec`."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document["spec"]
        for step in path[:-1]:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        place[path[-1]] = value

    return change


RCC = "rayClusterConfig"
HEAD = (RCC, "headGroupSpec")
GROUP = (RCC, "workerGroupSpecs", 0)
OPTIONS = ("upgradeStrategy", "clusterUpgradeOptions")


def named(name: str) -> Change:
    """Gives the object another name."""
    return lambda document: document["metadata"].update(name=name)


def noted(annotation: str) -> Change:
    """Gives the object an annotation."""
    return lambda document: document["metadata"]["annotations"].update({annotation: "true"})


def chosen(**fields: Any) -> Change:
    """A job on a cluster that is chosen by label."""

    def change(document: dict[str, Any]) -> None:
        document["spec"] = {"clusterSelector": {"ray.io/cluster": "a"}, **fields}

    return change


def fixed(change: Change) -> Change:
    """The change, on a cluster without autoscaling."""

    def both(document: dict[str, Any]) -> None:
        spec = document["spec"][RCC]
        spec["enableInTreeAutoscaling"] = False
        del spec["autoscalerOptions"]
        document["spec"]["upgradeStrategy"] = {"type": "NewCluster"}
        change(document)

    return both


ENV = ("template", "spec", "containers", 0, "env")
BAD: list[tuple[str, Callable[[], dict[str, Any]], Change]] = [
    ("head-missing", service, at(*HEAD, value=None)),
    ("head-service-name", service, at(*HEAD, "headService", "metadata", "name", value="x")),
    ("group-name", service, at(*GROUP, "groupName", value="b")),
    ("no-container", service, at(*GROUP, "template", "spec", "containers", value=[])),
    ("param-not-text", service, at(*HEAD, "rayStartParams", "num-cpus", value=0)),
    ("param-labels", service, at(*GROUP, "rayStartParams", "labels", value="a=b")),
    ("param-redis", service, at(*HEAD, "rayStartParams", "redis-username", value="u")),
    ("resource-twice", service, at(*HEAD, "resources", value={"CPU": "1"})),
    ("suspend-scaled", service, at(*GROUP, "suspend", value=True)),
    ("half-range", service, fixed(at(*GROUP, "maxReplicas", value=None))),
    ("range-reversed", service, at(*GROUP, "minReplicas", value=3)),
    ("negative-replicas", service, at(*GROUP, "minReplicas", value=-1)),
    ("options-unused", service, at(RCC, "enableInTreeAutoscaling", value=False)),
    ("restart-policy", service, at(*GROUP, "template", "spec", "restartPolicy", value="Always")),
    (
        "autoscaler-twice",
        service,
        at(*HEAD, *ENV, value=[{"name": "RAY_enable_autoscaler_v2", "value": "1"}]),
    ),
    ("ft-twice", service, noted("ray.io/ft-enabled")),
    ("ft-namespace", service, noted("ray.io/external-storage-namespace")),
    ("ft-address", service, at(RCC, "gcsFaultToleranceOptions", value={})),
    ("ft-variable", service, at(*HEAD, *ENV, value=[{"name": "REDIS_PASSWORD", "value": "x"}])),
    ("no-token", service, at(RCC, "authOptions", value={"mode": "disabled"})),
    ("token-version", service, at(RCC, "rayVersion", value="2.51.1")),
    (
        "priority-version",
        service,
        lambda d: d["spec"][RCC].update(
            rayVersion="2.55.0",
            workerGroupSpecs=[d["spec"][RCC]["workerGroupSpecs"][0] | {"priority": 1}],
        ),
    ),
    ("name-length", service, named("a" * 48)),
    ("name-form", service, named("Flywheel_1")),
    ("upgrade-type", service, at("upgradeStrategy", "type", value="Rolling")),
    ("deletion-delay", service, at("rayClusterDeletionDelaySeconds", value=-1)),
    ("upgrade-autoscaling", service, at(RCC, "enableInTreeAutoscaling", value=False)),
    ("upgrade-options", service, at(*OPTIONS, value=None)),
    ("upgrade-gateway", service, at(*OPTIONS, "gatewayClassName", value="")),
    ("upgrade-percent", service, at(*OPTIONS, "stepSizePercent", value=101)),
    ("upgrade-step", service, at(*OPTIONS, "stepSizePercent", value=60)),
    ("upgrade-interval", service, at(*OPTIONS, "intervalSeconds", value=0)),
    ("platform-token", service, at(RCC, "authOptions", "enableK8sTokenAuth", value=True)),
    ("job-ttl", job, at("shutdownAfterJobFinishes", value=False)),
    ("job-deletion", job, at("deletionStrategy", value={"deletionRules": [{}]})),
    ("job-backoff", job, at("backoffLimit", value=-1)),
    (
        "job-sidecar",
        job,
        lambda d: d["spec"].update(submissionMode="SidecarMode", submitterPodTemplate=pod()),
    ),
    (
        "job-suspend",
        job,
        lambda d: d["spec"].update(
            suspend=True, shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0
        ),
    ),
    ("job-deadline", job, at("activeDeadlineSeconds", value=0)),
    ("job-cluster", job, at("rayClusterSpec", value=None)),
    ("job-selector-backoff", job, chosen(backoffLimit=1)),
    ("job-selector-owner", job, chosen(shutdownAfterJobFinishes=True)),
    ("job-selector-sidecar", job, chosen(submissionMode="SidecarMode")),
    ("cron-zone", cron, at("schedule", value="TZ=UTC 0 3 * * *")),
    ("cron-fields", cron, at("schedule", value="0 3 * *")),
]


@pytest.mark.parametrize(("rule", "make", "change"), BAD, ids=[rule for rule, _, _ in BAD])
def test_a_rule_finds_what_breaks_it(
    rule: str, make: Callable[[], dict[str, Any]], change: Change
) -> None:
    """The same object is fine before the change and breaks the named rule after it."""
    good = make()
    assert object_problems(good) == []
    bad = copy.deepcopy(good)
    change(bad)
    assert rule in {problem.rule for problem in object_problems(bad)}


def test_every_rule_has_a_bad_example() -> None:
    """No rule that nobody has seen refuse anything."""
    source = "".join(
        Path(str(module.__file__)).read_text() for module in (ray_cluster_rules, ray_object_rules)
    )
    rules = set(re.findall(r'Problem\(\s*"([a-z-]+)"', source))
    assert rules == {rule for rule, _, _ in BAD}


def test_objects_of_others_are_let_be() -> None:
    """The lint judges KubeRay's objects alone."""
    assert object_problems({"apiVersion": "apps/v1", "kind": "Deployment"}) == []
