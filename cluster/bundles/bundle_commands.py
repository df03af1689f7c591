"""`cluster bundle`: list, show and verify, which change nothing; the rest is `bundle_changes`'s."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.bundles.bundle_changes import compose, diff, gc, pin
from cluster.console import Console, as_text
from recsys.errors import BundleCorrupt, BundleError

if TYPE_CHECKING:
    from recsys.bundles.bundle import Manifest
    from recsys.bundles.registry import Registry
    from recsys.stores.control.control import ControlView

OK = "ok"


@click.group(
    epilog="""\b
    Examples:
      cluster bundle list
      cluster bundle show b20261122-091500-4e1c9a
      cluster bundle verify
      cluster bundle gc --dry-run
    """
)
def bundle() -> None:
    """Look into the registry of bundles, compare, compose and clean up."""


for verb in (diff, compose, pin, gc):
    bundle.add_command(verb)


@bundle.command(
    "list",
    epilog="""\b
    Examples:
      cluster bundle list
      cluster --json bundle list | jq -r '.bundles[0].bundle_id'
    """,
)
@click.pass_obj
def list_bundles(console: Console) -> None:
    """List all bundles, newest first.

    State: stable answers; candidate is in an unfinished rollout; resident is kept loaded;
    published serves nobody; broken cannot be read. Of a composed bundle, the parts column says
    whose retrieval, scorer and ordering policy it has.
    """
    from rich.table import Table

    registry = _registry(console)
    states, pinned = _states(console), _pinned(console)
    manifests, broken = registry.survey()
    rows = [_summary(manifest, states, pinned) for manifest in manifests]
    table = Table()
    for name in ("id", "created", "state", "metrics", "parents", "parts"):
        table.add_column(name, no_wrap=name in {"id", "created"})
    for row in rows:
        parents = ", ".join(row["parents"])
        metrics = _metrics_text(row["metrics"])
        state = f"{row['state']}, pinned" if row["is_pinned"] else row["state"]
        parts = _parts_text(row["composed"])
        created = row["created_at"][:16].replace("T", " ")
        table.add_row(row["bundle_id"], created, state, metrics, parents, parts)
    for bundle_id, reason in broken:
        table.add_row(bundle_id, "", "broken", reason, "", "")
    document = {
        "registry": registry.url,
        "bundles": rows,
        "broken": [{"bundle_id": name, "reason": reason} for name, reason in broken],
    }
    empty = f"no bundle is in {registry.url}; make one with 'cluster train --publish'"
    console.emit(document, as_text(table) if rows or broken else empty)


@bundle.command(
    epilog="""\b
    Examples:
      cluster bundle show b20261122-091500-4e1c9a
      cluster --json bundle show b20261122-091500-4e1c9a | jq .manifest.lineage
    """
)
@click.argument("bundle_id")
@click.pass_obj
def show(console: Console, bundle_id: str) -> None:
    """Show one bundle's manifest."""
    manifest = _registry(console).manifest(bundle_id)
    state = _states(console).get(bundle_id, "published")
    is_pinned = bundle_id in _pinned(console)
    lines = {
        "id": manifest.bundle_id,
        "state": f"{state}, pinned" if is_pinned else state,
        "created": manifest.created_at,
        "parents": ", ".join(manifest.parents) or "none",
        "items": f"{manifest.n_items} x {manifest.embedding_dim} in {manifest.n_shards} shards",
        "actions": ", ".join(manifest.actions),
        "size": f"{manifest.n_bytes / 1e6:.1f} MB in {len(manifest.files)} files",
        "space": _space_text(manifest),
        "schema": manifest.feature_schema_hash,
        "signed": "no" if manifest.signature is None else f"by {manifest.signature.public_key}",
        "metrics": _metrics_text(manifest.metrics),
        "lineage": ", ".join(f"{key}={value}" for key, value in manifest.lineage.items()),
    }
    text = "\n".join(f"{key:<9}{value}" for key, value in lines.items())
    files = "\n".join(f"  {name}  {file.size}" for name, file in sorted(manifest.files.items()))
    document = {"state": state, "is_pinned": is_pinned, "manifest": asdict(manifest)}
    console.emit(document, f"{text}\nfiles (bytes)\n{files}")


@bundle.command(
    epilog="""\b
    Examples:
      cluster bundle verify                             (all of them)
      cluster bundle verify b20261122-091500-4e1c9a

    Exits 1 if a bundle is damaged, and names the file.
    """
)
@click.argument("bundle_id", required=False)
@click.pass_obj
def verify(console: Console, bundle_id: str | None) -> None:
    """Read every file of a bundle, or of all, and compare it with the manifest."""
    registry = _registry(console)
    if bundle_id is not None:
        registry.manifest(bundle_id)
        results = {bundle_id: _problem(registry, bundle_id)}
    else:
        manifests, broken = registry.survey()
        results = {m.bundle_id: _problem(registry, m.bundle_id) for m in manifests} | dict(broken)
    document = {
        "bundles": [
            {
                "bundle_id": name,
                "is_valid": problem == OK,
                "problem": problem if problem != OK else "",
            }
            for name, problem in results.items()
        ]
    }
    text = "\n".join(f"{name}  {problem}" for name, problem in results.items())
    console.emit(document, text or f"no bundle is in {registry.url}")
    damaged = [problem for problem in results.values() if problem != OK]
    if damaged:
        raise BundleCorrupt(
            f"{len(damaged)} of {len(results)} bundles cannot be used: {damaged[0]}; "
            "train a new one, or publish it again from an intact copy"
        )


def _registry(console: Console) -> Registry:
    from recsys.bundles.registry import open_registry

    return open_registry(console.settings)


def _problem(registry: Registry, bundle_id: str) -> str:
    """Verify from the registry itself, past this machine's cache of a bucket."""
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        try:
            registry.fetch(bundle_id, Path(folder))
        except BundleError as error:
            return str(error)
    return OK


def _states(console: Console) -> dict[str, str]:
    """Bundle id to what it is to the cluster, for those that are something."""
    from cluster.rollouts.storing.control_writer import ControlWriter
    from recsys.stores.control.control import ControlReader

    url = console.settings.control_url
    view: ControlView = ControlReader(url).view()
    states = dict.fromkeys(view.required, "resident")
    open_rollout = ControlWriter(url).open_rollout()
    if open_rollout is not None:
        states[open_rollout.rollout.bundle_id] = "candidate"
    if "stable" in view.aliases:
        states[view.aliases["stable"]] = "stable"
    return states


def _pinned(console: Console) -> set[str]:
    from cluster.bundles.pins import Pins

    pins = Pins(console.settings.control_url)
    try:
        return {pin.bundle_id for pin in pins.read()}
    finally:
        pins.close()


def _summary(manifest: Manifest, states: dict[str, str], pinned: set[str]) -> dict[str, Any]:
    from recsys.bundles.composition import COMPOSED

    return {
        "bundle_id": manifest.bundle_id,
        "created_at": manifest.created_at,
        "state": states.get(manifest.bundle_id, "published"),
        "metrics": manifest.metrics,
        "is_pinned": manifest.bundle_id in pinned,
        "composed": manifest.lineage.get(COMPOSED),
        "parents": list(manifest.parents),
        "n_items": manifest.n_items,
        "n_bytes": manifest.n_bytes,
    }


def _space_text(manifest: Manifest) -> str:
    own = manifest.scorer_space
    if own is None:
        return manifest.space_fingerprint[:16]
    return (
        f"{manifest.space_fingerprint[:16]}; scorer in {own.fingerprint[:16]}, width "
        f"{own.embedding_dim}, {own.n_estimated} vectors estimated"
    )


def _parts_text(composed: object) -> str:
    if not isinstance(composed, dict):
        return ""
    return ", ".join(f"{part} {bundle_id}" for part, bundle_id in composed.items())


def _metrics_text(metrics: dict[str, Any]) -> str:
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    return ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
