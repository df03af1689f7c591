"""Bundles in a bucket, through fsspec: files first, `manifest.json` last, which is the commit.

A prefix without a manifest was never published; a download is complete or absent. What is removed
first leaves its manifest under `.gone/`, so that whoever comes next can finish it or bring it back.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import fsspec

from recsys.bundles.bundle import MANIFEST_NAME, Manifest, parse_manifest, verify_bundle
from recsys.bundles.registry_directory import finish_directory, unfinished_directory
from recsys.errors import BundleCorrupt, BundleError, ConfigError, StoreError

_HIDDEN = ".gone"


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
        """Upload the files, then the manifest; the removal of an earlier one is finished first."""
        try:
            if self._files.exists(self._tombstone(manifest.bundle_id)):
                self.purge(manifest.bundle_id)
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

    def read_file(self, bundle_id: str, name: str) -> bytes:
        """One object of the bundle's prefix."""
        try:
            content: bytes = self._files.cat_file(self._path(bundle_id, name))
        except FileNotFoundError as error:
            raise BundleCorrupt(f"{name} of bundle {bundle_id} is missing") from error
        except OSError as error:
            raise self._unreachable(error) from error
        return content

    def stored_s(self, bundle_id: str) -> float | None:
        """When the manifest was written, where the file system says so."""
        try:
            facts = self._files.info(self._path(bundle_id, MANIFEST_NAME))
        except OSError:
            return None
        for name in ("LastModified", "modified", "updated", "last_modified", "created", "mtime"):
            moment = facts.get(name)
            if isinstance(moment, datetime):
                return moment.timestamp()
            if isinstance(moment, int | float):
                return float(moment)
        return None

    def hidden(self) -> list[str]:
        """Ids of the manifests under `.gone/`."""
        folder = f"{self._root}/{_HIDDEN}"
        try:
            self._files.invalidate_cache()
            if not self._files.exists(folder):
                return []
            names = [str(entry).rpartition("/")[2] for entry in self._files.ls(folder, False)]
        except OSError as error:
            raise self._unreachable(error) from error
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def hide(self, bundle_id: str) -> bool:
        """Keep the manifest aside, then delete it, which makes it no bundle."""
        manifest = self._path(bundle_id, MANIFEST_NAME)
        try:
            self._files.invalidate_cache()
            text = self._files.cat_file(manifest)
            self._files.makedirs(f"{self._root}/{_HIDDEN}", exist_ok=True)
            self._files.pipe_file(self._tombstone(bundle_id), text)
            self._files.rm_file(manifest)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unreachable(error) from error
        return True

    def show(self, bundle_id: str) -> bool:
        """Put the manifest back, if every file that it names is there."""
        try:
            self._files.invalidate_cache()
            text = self._files.cat_file(self._tombstone(bundle_id))
            names = parse_manifest(text).files
            if not all(self._files.exists(self._path(bundle_id, name)) for name in names):
                return False
            self._files.pipe_file(self._path(bundle_id, MANIFEST_NAME), text)
            self._remove(self._tombstone(bundle_id))
        except (FileNotFoundError, BundleCorrupt):
            return self.holds(bundle_id)
        except OSError as error:
            raise self._unreachable(error) from error
        return True

    def purge(self, bundle_id: str) -> None:
        """Delete the manifest, the files, and what was kept aside as the last."""
        try:
            self._files.invalidate_cache()
            self._remove(self._path(bundle_id, MANIFEST_NAME))
            for path in self._files.find(f"{self._root}/{bundle_id}"):
                self._remove(path)
            with suppress(FileNotFoundError):
                if self._files.exists(f"{self._root}/{bundle_id}"):
                    self._files.rm(f"{self._root}/{bundle_id}", recursive=True)
            self._remove(self._tombstone(bundle_id))
        except OSError as error:
            raise self._unreachable(error) from error

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(path)

    def _tombstone(self, bundle_id: str) -> str:
        return f"{self._root}/{_HIDDEN}/{bundle_id}.json"

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
    # Another process may have moved it, or put a right one there, which is then verified.
    with suppress(FileNotFoundError):
        cached.rename(copy.with_name(f"{copy.name}-damaged"))
