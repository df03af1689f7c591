"""What KubeRay's operator refuses in whole objects: clusters, services and jobs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cluster.kubernetes.ray_cluster_rules import Problem, cluster_problems

GROUP = "ray.io/"
NAME_LIMITS = {"RayCluster": 63, "RayService": 47, "RayJob": 47, "RayCronJob": 36}
MAX_PERCENT = 100
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_STRATEGIES = {"", "None", "NewCluster", "NewClusterWithIncrementalUpgrade"}
_CRON_FIELDS = 5


def object_problems(document: dict[str, Any]) -> list[Problem]:
    """Every problem of one object; of none that is not KubeRay's."""
    kind = str(document.get("kind", ""))
    if not str(document.get("apiVersion", "")).startswith(GROUP) or kind not in NAME_LIMITS:
        return []
    metadata = document.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    spec = document.get("spec") or {}
    problems = list(_name_problems(str(metadata.get("name", "")), kind))
    if kind == "RayCluster":
        problems += cluster_problems(spec, annotations, "spec")
    elif kind == "RayService":
        problems += _service_problems(spec, annotations)
    elif kind == "RayJob":
        problems += _job_problems(spec, annotations, "spec")
    else:
        problems += _cron_problems(spec, annotations)
    return problems


def _name_problems(name: str, kind: str) -> Iterator[Problem]:
    limit = NAME_LIMITS[kind]
    if len(name) > limit:
        yield Problem("name-length", "metadata.name", f"{kind} allows {limit} characters")
    if not _NAME.fullmatch(name):
        yield Problem("name-form", "metadata.name", "lower-case letters, digits and - (DNS 1035)")


def _service_problems(spec: dict[str, Any], annotations: dict[str, str]) -> Iterator[Problem]:
    cluster = spec.get("rayClusterConfig") or {}
    yield from cluster_problems(cluster, annotations, "spec.rayClusterConfig")
    yield from _no_platform_token(cluster, "spec.rayClusterConfig")
    upgrade = spec.get("upgradeStrategy") or {}
    if str(upgrade.get("type", "")) not in _STRATEGIES:
        where = "spec.upgradeStrategy.type"
        yield Problem("upgrade-type", where, f"one of {sorted(_STRATEGIES - {''})}")
    delay = spec.get("rayClusterDeletionDelaySeconds")
    if delay is not None and delay < 0:
        where = "spec.rayClusterDeletionDelaySeconds"
        yield Problem("deletion-delay", where, "expected 0 or more")
    if upgrade.get("type") == "NewClusterWithIncrementalUpgrade":
        yield from _incremental_problems(upgrade.get("clusterUpgradeOptions"), cluster)


def _incremental_problems(
    options: dict[str, Any] | None, cluster: dict[str, Any]
) -> Iterator[Problem]:
    where = "spec.upgradeStrategy.clusterUpgradeOptions"
    if not cluster.get("enableInTreeAutoscaling"):
        advice = "set enableInTreeAutoscaling: true in rayClusterConfig"
        yield Problem("upgrade-autoscaling", where, advice)
    if not options:
        yield Problem("upgrade-options", where, "an incremental upgrade needs its options")
        return
    if not options.get("gatewayClassName"):
        yield Problem("upgrade-gateway", where, "name the gatewayClassName")
    step, surge = options.get("stepSizePercent"), options.get("maxSurgePercent", MAX_PERCENT)
    if step is None or not 0 <= step <= MAX_PERCENT or not 0 <= surge <= MAX_PERCENT:
        yield Problem("upgrade-percent", where, "stepSizePercent and maxSurgePercent are 0 to 100")
    elif step > surge:
        yield Problem("upgrade-step", where, f"stepSizePercent {step} is above the surge {surge}")
    if (options.get("intervalSeconds") or 0) <= 0:
        yield Problem("upgrade-interval", where, "intervalSeconds is above 0")


def _no_platform_token(cluster: dict[str, Any], path: str) -> Iterator[Problem]:
    if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
        where = f"{path}.authOptions.enableK8sTokenAuth"
        yield Problem("platform-token", where, "only a RayCluster may; remove it")


def _job_problems(
    spec: dict[str, Any], annotations: dict[str, str], path: str
) -> Iterator[Problem]:
    is_shut_down = bool(spec.get("shutdownAfterJobFinishes"))
    lasts = spec.get("ttlSecondsAfterFinished") or 0
    if lasts < 0 or (lasts > 0 and not is_shut_down):
        where = f"{path}.ttlSecondsAfterFinished"
        yield Problem("job-ttl", where, "0 or more, and with shutdownAfterJobFinishes: true")
    if is_shut_down and (spec.get("deletionStrategy") or {}).get("deletionRules"):
        where = f"{path}.deletionStrategy.deletionRules"
        yield Problem("job-deletion", where, "not together with shutdownAfterJobFinishes")
    if (spec.get("backoffLimit") or 0) < 0:
        yield Problem("job-backoff", f"{path}.backoffLimit", "expected 0 or more")
    mode = spec.get("submissionMode")
    if mode == "SidecarMode" and spec.get("submitterPodTemplate"):
        where = f"{path}.submitterPodTemplate"
        yield Problem("job-sidecar", where, "SidecarMode has no submitter pod")
    if spec.get("suspend") and not is_shut_down:
        where = f"{path}.suspend"
        yield Problem("job-suspend", where, "needs shutdownAfterJobFinishes: true")
    if spec.get("activeDeadlineSeconds") is not None and spec["activeDeadlineSeconds"] <= 0:
        yield Problem("job-deadline", f"{path}.activeDeadlineSeconds", "expected more than 0")
    yield from _job_cluster_problems(spec, annotations, path)


def _job_cluster_problems(
    spec: dict[str, Any], annotations: dict[str, str], path: str
) -> Iterator[Problem]:
    cluster = spec.get("rayClusterSpec")
    if not spec.get("clusterSelector"):
        if not cluster:
            yield Problem("job-cluster", path, "set rayClusterSpec or clusterSelector")
            return
        yield from cluster_problems(cluster, annotations, f"{path}.rayClusterSpec")
        yield from _no_platform_token(cluster, f"{path}.rayClusterSpec")
        return
    where = f"{path}.clusterSelector"
    if spec.get("backoffLimit"):
        yield Problem("job-selector-backoff", where, "backoffLimit needs a cluster of its own")
    if spec.get("shutdownAfterJobFinishes") or spec.get("suspend"):
        yield Problem("job-selector-owner", where, "a chosen cluster is not the job's to stop")
    if spec.get("submissionMode") == "SidecarMode":
        yield Problem("job-selector-sidecar", where, "SidecarMode needs a cluster of its own")


def _cron_problems(spec: dict[str, Any], annotations: dict[str, str]) -> Iterator[Problem]:
    schedule = str(spec.get("schedule", ""))
    if "TZ=" in schedule:
        yield Problem("cron-zone", "spec.schedule", "say the zone in spec.timeZone")
    elif len(schedule.split()) != _CRON_FIELDS and not schedule.startswith("@"):
        yield Problem("cron-fields", "spec.schedule", "expected five fields")
    yield from _job_problems(spec.get("jobTemplate") or {}, annotations, "spec.jobTemplate")
