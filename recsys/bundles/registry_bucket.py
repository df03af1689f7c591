"""Bundles in a bucket, through fsspec: files first, `manifest.json` last, which is the commit.

A prefix without a manifest was never published; a download is complete or absent.
"""

from __future__ import annotations

import errno
from pathlib import Path

import fsspec

from recsys.bundles.bundle import MANIFEST_NAME, Manifest, parse_manifest, verify_bundle
from recsys.bundles.registry_directory import finish_directory, unfinished_directory
from recsys.errors import BundleCorrupt, BundleError, ConfigError, StoreError


class BucketStore:
    """A bucket's prefix with one sub-prefix per bundle."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"registry_url '{url}' cannot be opened: {error}; expected a directory or an "
                "fsspec URL whose driver is installed (s3:// needs s3fs, gs:// needs gcsfs)"
            ) from error
        self._root = str(root).rstrip("/")

    def candidates(self) -> list[str]:
        """Prefixes that hold a manifest."""
        try:
            self._files.invalidate_cache()
            if not self._files.exists(self._root):
                return []
            names = [
                str(entry["name"]).rstrip("/").rpartition("/")[2]
                for entry in self._files.ls(self._root, detail=True)
                if entry["type"] == "directory"
            ]
        except OSError as error:
            raise self._unreachable(error) from error
        return [name for name in names if not name.startswith(".") and self.holds(name)]

    def holds(self, bundle_id: str) -> bool:
        """Whether the manifest is there, which is written last."""
        try:
            return bool(self._files.exists(self._path(bundle_id, MANIFEST_NAME)))
        except OSError as error:
            raise self._unreachable(error) from error

    def read_manifest(self, bundle_id: str) -> Manifest:
        """The manifest object of the bundle's prefix."""
        try:
            text: bytes = self._files.cat_file(self._path(bundle_id, MANIFEST_NAME))
        except FileNotFoundError as error:
            raise BundleCorrupt(f"{MANIFEST_NAME} of bundle {bundle_id} is missing") from error
        except OSError as error:
            raise self._unreachable(error) from error
        return parse_manifest(text)

    def add(self, staging: Path, manifest: Manifest) -> None:
        """Upload the files, then the manifest."""
        try:
            for name in (*sorted(manifest.files), MANIFEST_NAME):
                target = self._path(manifest.bundle_id, name)
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(staging / name), target)
        except OSError as error:
            raise self._unreachable(error) from error

    def fetch(self, bundle_id: str, cache_dir: Path) -> Path:
        """The cached copy if it is still right, else a new download."""
        manifest = self.read_manifest(bundle_id)
        cached = (cache_dir / bundle_id).absolute()
        if _is_intact(cached, manifest):
            return cached
        with unfinished_directory(cache_dir, bundle_id) as copy:
            for name in (*sorted(manifest.files), MANIFEST_NAME):
                self._download(bundle_id, name, copy / name)
            verify_bundle(copy)
            _set_aside(cached, copy)
            try:
                finish_directory(copy, cached)
            except BundleError:
                verify_bundle(cached)
        return cached

    def _download(self, bundle_id: str, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._files.get_file(self._path(bundle_id, name), str(target))
        except FileNotFoundError as error:
            raise BundleCorrupt(f"{name} of bundle {bundle_id} is missing") from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise self._unreachable(error) from error

    def _path(self, bundle_id: str, name: str) -> str:
        return f"{self._root}/{bundle_id}/{name}"

    def _unreachable(self, error: OSError) -> StoreError:
        return StoreError(
            f"registry {self._url} cannot be used: {error}; "
            "check the setting registry_url, the credentials in the environment and the network"
        )


def _is_intact(cached: Path, manifest: Manifest) -> bool:
    try:
        return verify_bundle(cached) == manifest
    except BundleCorrupt:
        return False


def _set_aside(cached: Path, copy: Path) -> None:
    """Move a damaged cached copy under the unfinished directory's sibling name, out of sight."""
    if cached.exists():
        cached.rename(copy.with_name(f"{copy.name}-damaged"))
