"""Every overlay renders, and every object passes the API server's own validation and the lint.

Skips where the tools (`make k8s-tools`) or the operators' CRDs are absent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kubernetes.ray_object_rules import object_problems

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
OVERLAYS = ("dev", "prod", "ray-cron-job")
TOOLS = Path(os.environ.get("FLYWHEEL_K8S_TOOLS", ROOT / "var/k8s/bin"))
CRDS = [Path(folder) for folder in os.environ.get("FLYWHEEL_CRDS", "").split(":") if folder]
KUBERNETES = "1.30"
"""The newest version whose schemas the validator brings along."""


def tool(name: str) -> str:
    """The program's path; skips the test where it is not built."""
    path = TOOLS / name
    if not path.is_file():
        pytest.skip(f"{name} is not built; run 'make k8s-tools'")
    return str(path)


@pytest.fixture(scope="module")
def crds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with every CRD; skips where the operators' are absent."""
    files = [file for folder in CRDS for file in sorted(folder.glob("*.yaml"))]
    kinds = {
        yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["names"]["kind"] for file in files
    }
    wanted = {"RayService", "RayJob", "RayCronJob", "Kafka", "KafkaTopic", "PodMonitor"}
    if not wanted <= kinds:
        pytest.skip(f"no CRDs of {sorted(wanted - kinds)}; name their folders in FLYWHEEL_CRDS")
    folder = tmp_path_factory.mktemp("crds")
    for file in files:
        shutil.copy(file, folder)
    return folder


def rendered(overlay: str) -> str:
    """The overlay as kustomize puts it together."""
    command = [tool("kustomize"), "build", str(ROOT / "k8s/overlays" / overlay)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout


def validate(path: Path, crds: Path) -> subprocess.CompletedProcess[str]:
    """The validator's verdict on a file."""
    command = [tool("kubectl-validate"), str(path), "--local-crds", str(crds)]
    return subprocess.run(
        [*command, "--version", KUBERNETES],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def objects_of(text: str) -> list[dict[str, Any]]:
    """The objects of a rendered overlay."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_of_an_overlay_is_valid(overlay: str, crds: Path, tmp_path: Path) -> None:
    """Native kinds and CRDs, CEL rules included, and no problem of the lint."""
    text = rendered(overlay)
    path = tmp_path / "all.yaml"
    path.write_text(text)
    verdict = validate(path, crds)
    assert verdict.returncode == 0, verdict.stderr + verdict.stdout
    objects = objects_of(text)
    assert [problem for each in objects for problem in object_problems(each)] == []
    names = Counter((e["kind"], e["metadata"]["name"]) for e in objects)
    assert max(names.values()) == 1


def test_the_job_that_the_cron_job_creates_is_valid(crds: Path, tmp_path: Path) -> None:
    """It stands in a ConfigMap, where nobody else would look."""
    job = yaml.safe_load((ROOT / "k8s/overlays/prod/retrain-job.yaml").read_text())
    job["metadata"]["name"] = job["metadata"].pop("generateName") + "x1"
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    verdict = validate(path, crds)
    assert verdict.returncode == 0, verdict.stderr + verdict.stdout
    assert object_problems(job) == []


def test_the_validator_refuses_what_the_api_server_would(crds: Path, tmp_path: Path) -> None:
    """A number where text is wanted, and a field that there is not."""
    service = next(e for e in objects_of(rendered("prod")) if e["kind"] == "RayService")
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]
    for field, value, told in (("num-cpus", 0, "num-cpus"), (None, {}, "serveConfig")):
        if field:
            head["rayStartParams"][field] = value
        else:
            head["rayStartParams"]["num-cpus"] = "0"
            service["spec"]["serveConfig"] = value
        path = tmp_path / "bad.yaml"
        path.write_text(yaml.safe_dump(service))
        verdict = validate(path, crds)
        assert verdict.returncode != 0
        assert told in verdict.stderr + verdict.stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted_and_holds_no_secret(overlay: str) -> None:
    """What PodSecurity `restricted` demands, and passwords by reference alone."""
    pods = [found for each in objects_of(rendered(overlay)) for found in pod_specs(each)]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            for variable in container.get("env", []):
                is_secret = any(w in variable["name"] for w in ("PASSWORD", "SECRET", "AUTH"))
                assert not is_secret or "secretKeyRef" in variable["valueFrom"], variable["name"]


def pod_specs(value: Any) -> list[dict[str, Any]]:
    """Every pod's spec somewhere in an object."""
    if isinstance(value, list):
        return [found for each in value for found in pod_specs(each)]
    if not isinstance(value, dict):
        return []
    own = [value] if "containers" in value and "securityContext" in value else []
    return own + [found for each in value.values() for found in pod_specs(each)]
