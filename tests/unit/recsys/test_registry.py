"""The registry in a directory: full disks, killed publishes, damage, and URLs that are none."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from recsys.bundles import registry_directory
from recsys.bundles.registry import Registry
from recsys.bundles.registry_directory import LEFTOVER_AGE_S, unfinished_directory
from recsys.errors import BundleCorrupt, ConfigError, StoreError
from tests.registry_places import a_staging


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


def test_an_unfinished_directory_is_removed_on_an_error(tmp_path: Path) -> None:
    """Also when the error is not the disk's."""
    with pytest.raises(ZeroDivisionError), unfinished_directory(tmp_path, "b1") as copy:
        assert copy.name.startswith(".b1.tmp-")
        shutil.copyfile(__file__, copy / "x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
