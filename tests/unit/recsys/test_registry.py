"""The registry: publishing whole or not at all, in a directory and in a bucket."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from recsys.bundles import registry_directory
from recsys.bundles.bundle import verify_bundle, write_manifest
from recsys.bundles.registry import Registry
from recsys.bundles.registry_directory import LEFTOVER_AGE_S, unfinished_directory
from recsys.errors import BundleCorrupt, BundleError, BundleNotFound, ConfigError, StoreError

NOW = datetime(2026, 11, 22, 9, 15, 0, tzinfo=UTC)


def a_staging(directory: Path, bundle_id: str = "b1", age_s: float = 0.0) -> Path:
    """A whole bundle outside the registry."""
    for name in ("user_tower", "item_tower", "item_vectors"):
        (directory / f"{name}.safetensors").parent.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.safetensors").write_bytes(f"{name} of {bundle_id}".encode())
    (directory / "index" / "shard-000").mkdir(parents=True)
    (directory / "index" / "shard-000" / "codes.npy").write_bytes(b"codes")
    write_manifest(
        directory,
        bundle_id=bundle_id,
        created_at=NOW - timedelta(seconds=age_s),
        feature_schema={},
        feature_schema_hash="4e1c",
        actions=("view",),
        n_items=1,
        n_shards=1,
        embedding_dim=8,
        lineage={},
        metrics={},
    )
    return directory


@pytest.fixture(params=["directory", "file_url", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A registry of each kind, empty."""
    if request.param == "bucket":
        name = f"registry-{uuid.uuid4().hex}"
        yield f"memory://{name}/bundles"
        if fsspec.filesystem("memory").exists(f"/{name}"):
            fsspec.filesystem("memory").rm(f"/{name}", recursive=True)
    else:
        yield f"{'file://' if request.param == 'file_url' else ''}{tmp_path / 'bundles'}"


def test_a_registry_that_was_never_written_is_empty(url: str) -> None:
    """Reading makes nothing and fails at nothing."""
    registry = Registry(url)
    assert registry.survey() == ([], [])
    assert not registry.exists("b1")


def test_a_published_bundle_is_listed_read_and_fetched_whole(url: str, tmp_path: Path) -> None:
    """The way from the trainer to a replica."""
    staging = a_staging(tmp_path / "staging")
    registry = Registry(url)
    published = registry.publish(staging)
    assert registry.exists("b1")
    assert registry.list_bundles() == [published]
    assert Registry(url).manifest("b1") == published
    fetched = registry.fetch("b1", tmp_path / "cache")
    assert fetched.is_absolute()
    assert verify_bundle(fetched) == published


def test_bundles_are_listed_newest_first(url: str, tmp_path: Path) -> None:
    """By the time they were made, not by name."""
    registry = Registry(url)
    for bundle_id, age_s in (("a", 10.0), ("c", 30.0), ("b", 20.0)):
        registry.publish(a_staging(tmp_path / bundle_id, bundle_id, age_s))
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == ["a", "b", "c"]


def test_an_id_is_never_overwritten(url: str, tmp_path: Path) -> None:
    """The first bundle of an id stays as it is."""
    registry = Registry(url)
    first = registry.publish(a_staging(tmp_path / "first"))
    second = a_staging(tmp_path / "second", age_s=5.0)
    with pytest.raises(BundleError, match="already"):
        registry.publish(second)
    assert registry.list_bundles() == [first]


def test_a_corrupt_staging_directory_is_not_published(url: str, tmp_path: Path) -> None:
    """The registry takes only what its manifest describes."""
    staging = a_staging(tmp_path / "staging")
    (staging / "index" / "shard-000" / "codes.npy").write_bytes(b"c0des")
    registry = Registry(url)
    with pytest.raises(BundleCorrupt, match=r"codes\.npy"):
        registry.publish(staging)
    assert registry.survey() == ([], [])


def test_an_unknown_bundle_is_answered_with_the_newest_ones(url: str, tmp_path: Path) -> None:
    """The error says what there is instead."""
    registry = Registry(url)
    registry.publish(a_staging(tmp_path / "staging"))
    with pytest.raises(BundleNotFound, match=r"b9 .* b1"):
        registry.fetch("b9", tmp_path / "cache")


@pytest.mark.parametrize("bundle_id", ["../b1", "/etc", "", ".b1.tmp-x", "a/b", "a\\b", "a" * 129])
def test_an_id_that_is_a_path_is_refused(url: str, tmp_path: Path, bundle_id: str) -> None:
    """No id leads out of the registry."""
    registry = Registry(url)
    for call in (registry.exists, registry.manifest, lambda b: registry.fetch(b, tmp_path)):
        with pytest.raises(BundleError, match="is not a bundle id"):
            call(bundle_id)


def test_a_broken_bundle_is_reported_apart(tmp_path: Path) -> None:
    """One bad directory does not hide the good ones, and a renamed bundle is bad."""
    registry = Registry(str(tmp_path / "bundles"))
    for bundle_id in ("b1", "b2", "b3"):
        registry.publish(a_staging(tmp_path / bundle_id, bundle_id))
    (tmp_path / "bundles" / "b2" / "manifest.json").write_text("{")
    (tmp_path / "bundles" / "b3").rename(tmp_path / "bundles" / "b4")
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == ["b1"]
    broken = dict(registry.broken())
    assert broken.keys() == {"b2", "b4"}
    assert "not valid JSON" in broken["b2"]
    assert "that of bundle b3" in broken["b4"]


def test_a_bundle_damaged_after_publishing_is_refused_by_name(tmp_path: Path) -> None:
    """Fetching proves every file again."""
    registry = Registry(str(tmp_path / "bundles"))
    registry.publish(a_staging(tmp_path / "staging"))
    (tmp_path / "bundles" / "b1" / "item_vectors.safetensors").write_bytes(b"")
    with pytest.raises(BundleCorrupt, match=r"item_vectors\.safetensors"):
        registry.fetch("b1", tmp_path / "cache")


def test_a_full_disk_leaves_nothing_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to do, and the half copy is gone."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(registry_directory.shutil, "copyfile", full)
    registry = Registry(str(tmp_path / "bundles"))
    with pytest.raises(StoreError, match="free some space"):
        registry.publish(a_staging(tmp_path / "staging"))
    assert list((tmp_path / "bundles").iterdir()) == []


def test_what_a_killed_publish_left_is_ignored_and_removed_by_age(tmp_path: Path) -> None:
    """A young leftover may be somebody's publish in progress."""
    root = tmp_path / "bundles"
    old, young = root / ".b0.tmp-old", root / ".b0.tmp-young"
    for leftover in (old, young):
        a_staging(leftover, "b0")
    long_ago = old.stat().st_mtime - LEFTOVER_AGE_S - 60
    os.utime(old, (long_ago, long_ago))
    registry = Registry(str(root))
    assert registry.survey() == ([], [])
    registry.publish(a_staging(tmp_path / "staging"))
    assert (old.exists(), young.exists()) == (False, True)


def test_of_two_publishers_of_one_id_exactly_one_wins(tmp_path: Path) -> None:
    """The rename decides, and the loser is told."""
    stagings = [a_staging(tmp_path / f"s{i}", age_s=float(i)) for i in range(4)]
    outcomes: list[str] = []
    start = threading.Barrier(len(stagings))

    def publish(staging: Path) -> None:
        start.wait()
        try:
            Registry(str(tmp_path / "bundles")).publish(staging)
            outcomes.append("published")
        except BundleError:
            outcomes.append("refused")

    threads = [threading.Thread(target=publish, args=(staging,)) for staging in stagings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["published", "refused", "refused", "refused"]
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["b1"]
    verify_bundle(tmp_path / "bundles" / "b1")


def test_a_registry_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    """Neither reading nor publishing crashes on it."""
    (tmp_path / "bundles").write_text("not a directory")
    registry = Registry(str(tmp_path / "bundles"))
    with pytest.raises(StoreError, match="registry_url"):
        registry.list_bundles()
    with pytest.raises(StoreError, match="could not be written"):
        registry.publish(a_staging(tmp_path / "staging"))


def test_an_unknown_protocol_is_a_settings_error() -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match="registry_url 'nosuch://x'"):
        Registry("nosuch://x")


def test_an_upload_without_its_manifest_was_never_published(tmp_path: Path) -> None:
    """The manifest is the commit of a bucket."""
    name = f"registry-{uuid.uuid4().hex}"
    files = fsspec.filesystem("memory")
    registry = Registry(f"memory://{name}")
    registry.publish(a_staging(tmp_path / "staging"))
    files.rm(f"/{name}/b1/manifest.json")
    assert registry.survey() == ([], [])
    registry.publish(tmp_path / "staging")
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == ["b1"]
    files.rm(f"/{name}", recursive=True)


def test_a_damaged_cached_copy_is_downloaded_again(tmp_path: Path) -> None:
    """The cache is only a copy."""
    name = f"registry-{uuid.uuid4().hex}"
    registry = Registry(f"memory://{name}")
    manifest = registry.publish(a_staging(tmp_path / "staging"))
    cached = registry.fetch("b1", tmp_path / "cache")
    (cached / "user_tower.safetensors").write_bytes(b"damaged")
    assert verify_bundle(registry.fetch("b1", tmp_path / "cache")) == manifest
    fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


def test_a_damaged_object_of_a_bucket_is_refused_and_never_cached(tmp_path: Path) -> None:
    """A download appears whole and verified, or not at all."""
    name = f"registry-{uuid.uuid4().hex}"
    files = fsspec.filesystem("memory")
    registry = Registry(f"memory://{name}")
    registry.publish(a_staging(tmp_path / "staging"))
    files.pipe_file(f"/{name}/b1/user_tower.safetensors", b"damaged")
    with pytest.raises(BundleCorrupt, match=r"user_tower\.safetensors"):
        registry.fetch("b1", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    files.rm(f"/{name}", recursive=True)


def test_an_unfinished_directory_is_removed_on_an_error(tmp_path: Path) -> None:
    """Also when the error is not the disk's."""
    with pytest.raises(ZeroDivisionError), unfinished_directory(tmp_path, "b1") as copy:
        assert copy.name.startswith(".b1.tmp-")
        shutil.copyfile(__file__, copy / "x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
