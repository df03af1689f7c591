"""What the CronJob runs: it creates one RayJob with the pod's account, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.kubernetes.bill_of_materials import Package, bill_of_materials, installed_packages
from cluster.kubernetes.job_submission import ApiAccess, create_job, in_cluster_access
from recsys.errors import ConfigError, FleetError

ROOT = Path(__file__).parents[3]
JOB = ROOT / "k8s/overlays/prod/retrain-job.yaml"
ACCESS = ApiAccess("https://10.0.0.1:443", "flywheel", "t0ken")


def answering(status: int, sent: list[dict[str, Any]]) -> Any:
    """Stands for `httpx.post`: notes what is sent and answers with a status."""

    def post(url: str, **options: Any) -> httpx.Response:
        sent.append({"url": url, **options})
        return httpx.Response(status, json={"metadata": {"name": "flywheel-retrain-x1"}})

    return post


def test_the_job_of_the_overlay_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the pod's own namespace, with its token, under the name that the server draws."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(httpx, "post", answering(201, sent))
    assert create_job(JOB, ACCESS) == "flywheel-retrain-x1"
    assert sent[0]["url"].endswith("/apis/ray.io/v1/namespaces/flywheel/rayjobs")
    assert sent[0]["headers"] == {"authorization": "Bearer t0ken"}
    assert sent[0]["json"]["spec"]["entrypoint"] == "cluster train --warm-start --publish"


def test_a_refusal_is_told_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status and what to check, never the account's proof."""
    monkeypatch.setattr(httpx, "post", answering(403, []))
    with pytest.raises(FleetError, match="403") as refused:
        create_job(JOB, ACCESS)
    assert "t0ken" not in f"{refused.value} {ACCESS!r}"


def test_a_file_of_something_else_is_not_sent(tmp_path: Path) -> None:
    """One RayJob and nothing else."""
    path = tmp_path / "pod.yaml"
    path.write_text("kind: Pod\n")
    with pytest.raises(ConfigError, match="expected one RayJob"):
        create_job(path, ACCESS)


def test_the_account_of_a_pod_is_found(tmp_path: Path) -> None:
    """By the variables and files that Kubernetes gives; outside of a pod that is said."""
    with pytest.raises(FleetError, match="inside Kubernetes"):
        in_cluster_access({}, tmp_path)
    (tmp_path / "token").write_text("t0ken")
    (tmp_path / "namespace").write_text("flywheel")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    found = in_cluster_access(environ, tmp_path)
    assert (found.url, found.namespace) == ("https://[fd00::1]:6443", "flywheel")


def test_the_bill_of_materials_names_every_package() -> None:
    """With version and package URL; the licence where its author names one."""
    document = bill_of_materials([Package("A_b", "1.0", "MIT"), Package("c", "2", "")])
    assert [each["purl"] for each in document["components"]] == ["pkg:pypi/a-b@1.0", "pkg:pypi/c@2"]
    assert "licenses" not in document["components"][1]
    assert "ray" in {package.name for package in installed_packages()}
