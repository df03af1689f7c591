"""Creates a RayJob from inside a pod, with the pod's own account. Changes nothing else."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cluster.kubernetes.manifest_files import read_manifests
from recsys.errors import ConfigError, FleetError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """Where the API server is, and the account's proof; without `authority` a plain URL."""

    url: str
    namespace: str
    token: str = field(repr=False)
    authority: Path | None = None


def in_cluster_access(
    environ: Mapping[str, str] = os.environ, account: Path = ACCOUNT
) -> ApiAccess:
    """What Kubernetes gives every pod with an account.

    Raises:
        FleetError: this process runs in no such pod.
    """
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    token, namespace = account / "token", account / "namespace"
    if not host or not token.exists():
        raise FleetError(
            f"no account of a pod is at {account}, expected to run inside Kubernetes; on a laptop "
            "use 'kubectl create -f'"
        )
    shown = f"[{host}]" if ":" in host else host
    return ApiAccess(
        f"https://{shown}:{port}", namespace.read_text(), token.read_text(), account / "ca.crt"
    )


def create_job(manifest: Path, access: ApiAccess) -> str:
    """Create the one RayJob of a file; the name that the API server gave it.

    Raises:
        ConfigError: the file holds anything but one RayJob.
        FleetError: the API server refuses it or cannot be reached.
    """
    documents = [document for _, document in read_manifests([str(manifest)])]
    kinds = [document.get("kind") for document in documents]
    if kinds != ["RayJob"]:
        raise ConfigError(f"{manifest} holds {kinds}, expected one RayJob")
    verified: ssl.SSLContext | bool = True
    if access.authority is not None:
        verified = ssl.create_default_context(cafile=str(access.authority))
    url = f"{access.url}/apis/ray.io/v1/namespaces/{access.namespace}/rayjobs"
    try:
        answer = httpx.post(
            url,
            json=documents[0],
            headers={"authorization": f"Bearer {access.token}"},
            verify=verified,
            timeout=TIMEOUT_S,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise FleetError(
            f"{access.url} does not answer ({error}), expected the API server; check the "
            "NetworkPolicy of this pod"
        ) from error
    if answer.status_code != httpx.codes.CREATED:
        raise FleetError(
            f"the API server refused the RayJob with {answer.status_code} "
            f"({answer.text[:300]}), expected 201; check the account's role"
        )
    return str(answer.json()["metadata"]["name"])
