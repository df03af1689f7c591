"""`cluster k8s`: the lint of manifests, and the parts of ours that are made from settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from cluster.console import Console
from recsys.errors import FleetError


@click.group(
    "k8s",
    epilog="""\b
    Examples:
      kubectl kustomize k8s/overlays/prod | cluster k8s lint -
      cluster --config configs/prod.toml k8s render --to k8s/overlays/prod
    """,
)
def kubernetes() -> None:
    """Manifests of Kubernetes. Touches no running cluster."""


@kubernetes.command(
    epilog="""\b
    Examples:
      cluster k8s lint my-rayservice.yaml
      kubectl kustomize k8s/overlays/prod | cluster k8s lint -
    """
)
@click.argument("sources", nargs=-1, required=True, metavar="FILE|FOLDER|- ...")
@click.pass_obj
def lint(console: Console, sources: tuple[str, ...]) -> None:
    """Find what KubeRay's operator would refuse, before it is applied; exit 1 if there is any."""
    from cluster.kubernetes.manifest_files import read_manifests
    from cluster.kubernetes.ray_object_rules import object_problems

    found = []
    n_objects = 0
    for source, document in read_manifests(sources):
        n_objects += 1
        name = f"{document.get('kind')}/{(document.get('metadata') or {}).get('name')}"
        found += [
            {"source": source, "object": name, **asdict(problem)}
            for problem in object_problems(document)
        ]
    lines = [f"{f['object']} {f['path']}: {f['advice']} [{f['rule']}]" for f in found]
    text = "\n".join([*lines, f"{n_objects} objects, {len(found)} problems"])
    console.emit({"n_objects": n_objects, "problems": found}, text)
    if found:
        raise FleetError(
            f"{len(found)} problems in {n_objects} objects, expected none; mend those above"
        )


@kubernetes.command(
    epilog="""\b
    Examples:
      cluster --config configs/prod.toml --config k8s/overlays/prod/settings.toml \\
        k8s render --to k8s/overlays/prod
      cluster --config k8s/overlays/dev/settings.toml k8s render --one-node --to k8s/overlays/dev
    """
)
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, metavar="FOLDER")
@click.option("--one-node", is_flag=True, help="All replicas on the head, as on one machine.")
@click.option("--monitoring", is_flag=True, help="Alert rules and the dashboard instead.")
@click.pass_obj
def render(console: Console, folder: Path, one_node: bool, monitoring: bool) -> None:
    """Write what of an overlay follows from the settings, for kustomize to put in its place."""
    files = rendered_files(console, one_node=one_node, monitoring=monitoring)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    written = [str(folder / name) for name in files]
    console.emit({"files": written}, "\n".join(written))


@kubernetes.command(
    epilog="""\b
    Examples:
      cluster k8s submit k8s/overlays/prod/retrain-job.yaml
    """
)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.pass_obj
def submit(console: Console, manifest: Path) -> None:
    """Create the RayJob of a file in this pod's cluster, as the CronJob of retraining does."""
    from cluster.kubernetes.job_submission import create_job, in_cluster_access

    name = create_job(manifest, in_cluster_access())
    console.emit({"job": name}, f"created RayJob {name}")


@kubernetes.command(
    epilog="""\b
    Examples:
      docker run --rm flywheel:dev cluster k8s sbom > sbom.json
    """
)
@click.pass_obj
def sbom(console: Console) -> None:
    """Print what this installation consists of, as CycloneDX: run it in the image."""
    from cluster.kubernetes.bill_of_materials import bill_of_materials, installed_packages

    document = bill_of_materials(installed_packages())
    console.emit(document, json.dumps(document, indent=1))


def rendered_files(console: Console, *, one_node: bool, monitoring: bool) -> dict[str, str]:
    """File name to its text."""
    if monitoring:
        from cluster.kubernetes.dashboards import alert_rules, dashboard
        from cluster.kubernetes.metric_names import declared_series

        series = declared_series()
        return {"alert-rules.yaml": alert_rules(series), "dashboard.json": dashboard(series)}
    from cluster.kubernetes.service_document import (
        environment_patch,
        service_patch,
        settings_patch,
    )

    return {
        "serve-config.yaml": service_patch(console.settings, one_node=one_node),
        "ray-environment.yaml": environment_patch(console.settings),
        "settings-environment.yaml": settings_patch(console.settings),
    }
