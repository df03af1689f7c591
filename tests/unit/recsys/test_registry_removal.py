"""A bundle leaves the registry in two steps, and each can be killed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from recsys.bundles.bundle import MANIFEST_NAME, verify_bundle
from recsys.bundles.registry import Registry
from recsys.errors import BundleCorrupt
from recsys.settings import Settings
from tests.parts_for_tests import publish_parts


@pytest.fixture(params=["directory", "bucket", "file_bucket"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an empty registry of each kind."""
    if request.param == "directory":
        yield Settings(data_dir=tmp_path / "var")
        return
    if request.param == "file_bucket":
        # The same store over a driver with folders: `local` behind another name's semantics.
        yield Settings(data_dir=tmp_path / "var", registry_url=f"dir::file://{tmp_path}/bucket")
        return
    name = f"registry-{uuid.uuid4().hex}"
    yield Settings(data_dir=tmp_path / "var", registry_url=f"memory://{name}/bundles")
    if fsspec.filesystem("memory").exists(f"/{name}"):
        fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


def two_bundles(settings: Settings, folder: Path) -> Registry:
    """A registry with b1 and b2."""
    publish_parts(settings, folder, "b1")
    publish_parts(settings, folder, "b2", scorer="other")
    return Registry(settings.registry_location)


def ids(registry: Registry) -> list[str]:
    """What is listed."""
    return sorted(manifest.bundle_id for manifest in registry.list_bundles())


def test_a_hidden_bundle_is_gone_and_can_be_shown_again(settings: Settings, tmp_path: Path) -> None:
    """Whole, as it was."""
    registry = two_bundles(settings, tmp_path)
    assert registry.hide("b1")
    assert (ids(registry), registry.hidden(), registry.exists("b1")) == (["b2"], ["b1"], False)
    assert registry.broken() == []
    assert registry.show("b1")
    assert (ids(registry), registry.hidden()) == (["b1", "b2"], [])
    assert verify_bundle(registry.fetch("b1", tmp_path / "cache")).bundle_id == "b1"


def test_a_purged_bundle_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    """Purging again is no error, and the id may be published again."""
    registry = two_bundles(settings, tmp_path)
    registry.hide("b1")
    registry.purge("b1")
    registry.purge("b1")
    assert (ids(registry), registry.hidden(), registry.broken()) == (["b2"], [], [])
    assert not registry.show("b1")
    registry.publish(tmp_path / "staging-b1")
    assert ids(registry) == ["b1", "b2"]


def test_hiding_twice_is_told_apart(settings: Settings, tmp_path: Path) -> None:
    """So that two who remove at once count a bundle once."""
    registry = two_bundles(settings, tmp_path)
    assert [registry.hide("b1"), registry.hide("b1"), registry.hide("b9")] == [True, False, False]


def test_a_bundle_published_again_while_its_removal_hangs_stays(
    settings: Settings, tmp_path: Path
) -> None:
    """What is left of the removal does not touch it, and it can be removed itself."""
    registry = two_bundles(settings, tmp_path)
    registry.hide("b1")
    registry.publish(tmp_path / "staging-b1")
    for bundle_id in registry.hidden():
        registry.purge(bundle_id)
    assert ids(registry) == ["b1", "b2"]
    verify_bundle(registry.fetch("b1", tmp_path / "cache"))
    assert registry.hide("b1")
    registry.purge("b1")
    assert ids(registry) == ["b2"]


def test_one_file_is_read_and_proved_alone(settings: Settings, tmp_path: Path) -> None:
    """Without fetching the bundle."""
    registry = two_bundles(settings, tmp_path)
    manifest = registry.manifest("b2")
    assert registry.read_file(manifest, "scorer.safetensors") == b"other"
    with pytest.raises(BundleCorrupt, match="names no such file"):
        registry.read_file(manifest, "../b1/scorer.safetensors")
    with pytest.raises(BundleCorrupt, match="was changed"):
        registry.read_file(
            type(manifest)(**{**_fields(manifest), "bundle_id": "b1"}), "scorer.safetensors"
        )


def test_the_time_of_publishing_is_told(settings: Settings, tmp_path: Path) -> None:
    """By the store's own clock; of what is not there, none."""
    registry = two_bundles(settings, tmp_path)
    published_s = registry.stored_s("b1")
    marker = tmp_path / "staging-b1" / MANIFEST_NAME
    assert published_s is not None
    assert abs(published_s - marker.stat().st_mtime) < 60
    assert registry.stored_s("b9") is None


def test_a_directory_half_purged_is_not_shown_again(tmp_path: Path) -> None:
    """Its manifest goes first."""
    settings = Settings(data_dir=tmp_path / "var")
    registry = two_bundles(settings, tmp_path)
    registry.hide("b1")
    (Path(settings.registry_location) / ".b1.gone" / MANIFEST_NAME).unlink()
    assert not registry.show("b1")
    assert registry.hidden() == ["b1"]
    registry.purge("b1")
    assert registry.hidden() == []


def test_a_bucket_half_purged_is_not_shown_again(tmp_path: Path) -> None:
    """A file that the manifest names is missing."""
    name = f"registry-{uuid.uuid4().hex}"
    settings = Settings(data_dir=tmp_path / "var", registry_url=f"memory://{name}/bundles")
    registry = two_bundles(settings, tmp_path)
    registry.hide("b1")
    files = fsspec.filesystem("memory")
    files.rm_file(f"/{name}/bundles/b1/scorer.json")
    assert not registry.show("b1")
    registry.purge("b1")
    assert [path for path in files.find(f"/{name}") if "/b1/" in path] == []
    files.rm(f"/{name}", recursive=True)


def _fields(manifest: object) -> dict[str, object]:
    from dataclasses import fields

    return {field.name: getattr(manifest, field.name) for field in fields(manifest)}  # type: ignore[arg-type]
