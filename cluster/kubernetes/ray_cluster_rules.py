"""What KubeRay's operator refuses in a cluster's spec, and what would only fail once it runs.

Pure: a spec in, findings out. A rule is named so that its finding can be looked up in the docs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FIRST_TOKEN_VERSION = (2, 52)
FIRST_PRIORITY_VERSION = (2, 56)
_AMOUNTS = {"num-cpus": "CPU", "num-gpus": "GPU", "memory": "memory"}
_FT_ANNOTATION = "ray.io/ft-enabled"
_GCS_VARIABLES = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD")
_STORAGE_ANNOTATION = "ray.io/external-storage-namespace"


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: its name, where in the object, and what to do."""

    rule: str
    path: str
    advice: str


def version_of(text: str) -> tuple[int, int] | None:
    """Major and minor of a Ray version; None where there is none."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def cluster_problems(
    spec: dict[str, Any], annotations: dict[str, str], path: str
) -> Iterator[Problem]:
    """Every problem of a RayCluster's spec."""
    groups = spec.get("workerGroupSpecs") or []
    is_scaled = bool(spec.get("enableInTreeAutoscaling"))
    head = spec.get("headGroupSpec")
    if not isinstance(head, dict):
        yield Problem("head-missing", f"{path}.headGroupSpec", "describe the head")
        return
    yield from _group_problems(head, f"{path}.headGroupSpec")
    if ((head.get("headService") or {}).get("metadata") or {}).get("name"):
        where = f"{path}.headGroupSpec.headService.metadata.name"
        yield Problem("head-service-name", where, "leave the name to the operator")
    yield from _names(groups, path)
    for number, group in enumerate(groups):
        where = f"{path}.workerGroupSpecs[{number}]"
        yield from _group_problems(group, where)
        yield from _scale_problems(group, where, is_scaled=is_scaled)
        version = version_of(str(spec.get("rayVersion", "")))
        if group.get("priority") is not None and (version or (0, 0)) < FIRST_PRIORITY_VERSION:
            yield Problem("priority-version", f"{where}.priority", "needs rayVersion 2.56 or newer")
    yield from _autoscaler_problems(spec, path)
    yield from _fault_tolerance_problems(spec, annotations, path)
    yield from _token_problems(spec, path)


def _names(groups: list[dict[str, Any]], path: str) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, group in enumerate(groups):
        name = str(group.get("groupName", ""))
        where = f"{path}.workerGroupSpecs[{number}].groupName"
        if not name or name in seen:
            yield Problem("group-name", where, "give each worker group a name of its own")
        seen.add(name)


def _group_problems(group: dict[str, Any], path: str) -> Iterator[Problem]:
    parameters = group.get("rayStartParams") or {}
    resources = group.get("resources") or {}
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or []
    if not containers:
        yield Problem("no-container", f"{path}.template.spec.containers", "add Ray's container")
    for name, value in parameters.items():
        if not isinstance(value, str):
            yield Problem("param-not-text", f"{path}.rayStartParams.{name}", "put it in quotes")
    if "labels" in parameters:
        yield Problem("param-labels", f"{path}.rayStartParams.labels", "use the group's 'labels'")
    if "redis-username" in parameters or "redis-password" in parameters:
        where = f"{path}.rayStartParams"
        yield Problem("param-redis", where, "use gcsFaultToleranceOptions with a secret")
    for parameter, resource in _AMOUNTS.items():
        if parameter in parameters and resource in resources:
            where = f"{path}.rayStartParams.{parameter}"
            yield Problem("resource-twice", where, f"say it here or in resources.{resource}")
    if "resources" in parameters and resources:
        where = f"{path}.rayStartParams.resources"
        yield Problem("resource-twice", where, "say it here or in the group's resources")


def _scale_problems(group: dict[str, Any], path: str, *, is_scaled: bool) -> Iterator[Problem]:
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if group.get("suspend") and is_scaled:
        yield Problem("suspend-scaled", f"{path}.suspend", "a suspended group cannot be autoscaled")
    if not is_scaled and (least is None) != (most is None):
        yield Problem("half-range", path, "set both minReplicas and maxReplicas, or neither")
    if least is not None and most is not None and least > most:
        yield Problem("range-reversed", path, f"minReplicas {least} is above maxReplicas {most}")
    for name in ("minReplicas", "maxReplicas", "replicas"):
        if (group.get(name) or 0) < 0:
            yield Problem("negative-replicas", f"{path}.{name}", "expected 0 or more")


def _autoscaler_problems(spec: dict[str, Any], path: str) -> Iterator[Problem]:
    options = spec.get("autoscalerOptions") or {}
    if not spec.get("enableInTreeAutoscaling"):
        if options:
            where = f"{path}.autoscalerOptions"
            yield Problem("options-unused", where, "set enableInTreeAutoscaling: true")
        return
    for where, group in _groups(spec, path):
        pod = (group.get("template") or {}).get("spec") or {}
        if options.get("version") == "v2" and pod.get("restartPolicy", "Never") != "Never":
            yield Problem("restart-policy", where, "autoscaler v2 needs restartPolicy Never")
        if options.get("version") and "RAY_enable_autoscaler_v2" in _variables(pod):
            advice = "autoscalerOptions.version says it; remove RAY_enable_autoscaler_v2"
            yield Problem("autoscaler-twice", where, advice)


def _fault_tolerance_problems(
    spec: dict[str, Any], annotations: dict[str, str], path: str
) -> Iterator[Problem]:
    options = spec.get("gcsFaultToleranceOptions")
    if options is None:
        return
    where = f"{path}.gcsFaultToleranceOptions"
    if _FT_ANNOTATION in annotations:
        yield Problem("ft-twice", where, f"remove the annotation {_FT_ANNOTATION}")
    if _STORAGE_ANNOTATION in annotations:
        yield Problem("ft-namespace", where, f"remove the annotation {_STORAGE_ANNOTATION}")
    if not options.get("redisAddress") and not options.get("storage"):
        yield Problem("ft-address", f"{where}.redisAddress", "name the Redis server")
    head = ((spec["headGroupSpec"].get("template")) or {}).get("spec") or {}
    for name in _GCS_VARIABLES:
        if name in _variables(head):
            yield Problem("ft-variable", where, f"remove {name} from the head's environment")


def _token_problems(spec: dict[str, Any], path: str) -> Iterator[Problem]:
    options = spec.get("authOptions") or {}
    if options.get("mode") != "token":
        advice = "set authOptions.mode: token; whoever reaches a Ray port runs code"
        yield Problem("no-token", f"{path}.authOptions", advice)
        return
    version = version_of(str(spec.get("rayVersion", "")))
    if version is None or version < FIRST_TOKEN_VERSION:
        yield Problem("token-version", f"{path}.rayVersion", "token mode needs 2.52 or newer")


def _groups(spec: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield f"{path}.headGroupSpec", spec["headGroupSpec"]
    for number, group in enumerate(spec.get("workerGroupSpecs") or []):
        yield f"{path}.workerGroupSpecs[{number}]", group


def _variables(pod: dict[str, Any]) -> set[str]:
    return {
        str(variable.get("name"))
        for container in pod.get("containers") or []
        for variable in container.get("env") or []
    }
