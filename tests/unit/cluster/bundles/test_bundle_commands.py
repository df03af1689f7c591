"""`cluster bundle`: what it prints and how it exits."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.bundles.bundle_commands import bundle
from cluster.console import Console
from cluster.rollouts.deciding.rollout_record import Rollout
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.bundle import write_manifest
from recsys.bundles.registry import Registry
from recsys.errors import BundleCorrupt, BundleNotFound
from recsys.settings import Settings


def publish(settings: Settings, folder: Path, bundle_id: str, second: int) -> None:
    """Add a small whole bundle."""
    staging = folder / f"staging-{bundle_id}"
    staging.mkdir()
    for name in ("user_tower", "item_tower", "item_vectors"):
        (staging / f"{name}.safetensors").write_bytes(f"{name} {bundle_id}".encode())
    write_manifest(
        staging,
        bundle_id=bundle_id,
        created_at=datetime(2026, 11, 22, 9, 15, second, tzinfo=UTC),
        feature_schema={},
        feature_schema_hash="4e1c",
        actions=("view", "like"),
        n_items=7,
        n_shards=2,
        embedding_dim=8,
        lineage={"lake_version": 3},
        metrics={"ndcg@10": 0.1234567, "note": "text"},
        parents=("b0",),
    )
    Registry(settings.registry_location).publish(staging)


def some_bundles(folder: Path) -> Settings:
    """Four bundles, one in each state."""
    settings = Settings(data_dir=folder / "var")
    for second, bundle_id in enumerate(("b1", "b2", "b3", "b4")):
        publish(settings, folder, bundle_id, second)
    writer = ControlWriter(settings.control_url)
    writer.set_alias("stable", "b2", None)
    writer.set_required(("b2", "b1", "b3"), ())
    writer.start_rollout(
        Rollout("r1", "b3", "b2", "instant", (), ("b2",), ("b3", "b2"), 0, 1, 0), "ann", 0
    )
    return settings


def run(settings: Settings, *arguments: str, as_json: bool = True) -> Result:
    """The command, as `cluster bundle ARGUMENTS`."""
    return CliRunner().invoke(bundle, list(arguments), obj=Console(settings, as_json=as_json))


def document(result: Result) -> Any:
    """The one JSON document on stdout."""
    return json.loads(result.stdout)


def test_the_list_says_what_each_bundle_is_to_the_cluster(tmp_path: Path) -> None:
    """Newest first, with the broken ones apart."""
    settings = some_bundles(tmp_path)
    (Path(settings.registry_location) / "b9").mkdir()
    result = run(settings, "list")
    assert result.exit_code == 0
    found = document(result)
    assert [(row["bundle_id"], row["state"]) for row in found["bundles"]] == [
        ("b4", "published"),
        ("b3", "candidate"),
        ("b2", "stable"),
        ("b1", "resident"),
    ]
    assert found["broken"] == [
        {"bundle_id": "b9", "reason": "manifest.json of bundle b9 is missing"}
    ]
    text = run(settings, "list", as_json=False).stdout
    assert "ndcg@10 0.1235" in text
    assert "broken" in text


def test_an_empty_registry_says_how_to_fill_it(tmp_path: Path) -> None:
    """And is no error."""
    result = run(Settings(data_dir=tmp_path / "var"), "list", as_json=False)
    assert result.exit_code == 0
    assert "cluster train --publish" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_shown_with_its_manifest(tmp_path: Path) -> None:
    """As text and as JSON."""
    settings = some_bundles(tmp_path)
    found = document(run(settings, "show", "b2"))
    assert (found["state"], found["manifest"]["lineage"]) == ("stable", {"lake_version": 3})
    text = run(settings, "show", "b2", as_json=False).stdout
    assert "7 x 8 in 2 shards" in text
    assert "item_vectors.safetensors" in text


def test_showing_an_unknown_bundle_fails(tmp_path: Path) -> None:
    """With the ids there are."""
    result = run(some_bundles(tmp_path), "show", "b7")
    assert isinstance(result.exception, BundleNotFound)
    assert "b4, b3, b2" in str(result.exception)


@pytest.mark.parametrize("arguments", [("verify",), ("verify", "b2")])
def test_verifying_names_the_damaged_file_and_fails(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Exit 1, after the whole result was printed."""
    settings = some_bundles(tmp_path)
    assert run(settings, *arguments).exit_code == 0
    path = Path(settings.registry_location, "b2", "item_tower.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    result = run(settings, *arguments)
    assert isinstance(result.exception, BundleCorrupt)
    assert result.exception.exit_code == 1
    assert "item_tower.safetensors" in str(result.exception)
    damaged = [row["bundle_id"] for row in document(result)["bundles"] if not row["is_valid"]]
    assert damaged == ["b2"]


@pytest.mark.parametrize("verb", ["list", "show", "verify"])
def test_every_verb_explains_itself_with_examples(verb: str) -> None:
    """Without settings."""
    result = CliRunner().invoke(bundle, [verb, "--help"])
    assert result.exit_code == 0
    assert f"cluster bundle {verb}" in result.stdout
