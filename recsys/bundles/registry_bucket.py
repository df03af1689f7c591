"""Bundles in a bucket: files first, `manifest.json` last, which is the commit.

A prefix without a manifest was never published; a download is complete or absent. What is removed
first leaves its manifest under `.gone/`, so that whoever comes next can finish it or bring it back.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from recsys.bundles.bucket_objects import open_objects
from recsys.bundles.bucket_reports import plain_place
from recsys.bundles.bundle import MANIFEST_NAME, Manifest, parse_manifest, verify_bundle
from recsys.bundles.registry_directory import finish_directory, unfinished_directory
from recsys.errors import BundleCorrupt, BundleError, StoreError
from recsys.stores.folder_lock import folder_lock

_HIDDEN = ".gone"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class BucketStore:
    """A bucket's prefix with one sub-prefix per bundle."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._objects = open_objects(url)

    def candidates(self) -> list[str]:
        """Prefixes that hold a manifest."""
        with self._reached():
            parts = [name.split("/") for name in self._objects.names()]
        return [
            part[0]
            for part in parts
            if len(part) == 2 and part[1] == MANIFEST_NAME and not part[0].startswith(".")
        ]

    def holds(self, bundle_id: str) -> bool:
        """Whether the manifest is there, which is written last."""
        with self._reached():
            return self._objects.exists(_manifest(bundle_id))

    def read_manifest(self, bundle_id: str) -> Manifest:
        """The manifest object of the bundle's prefix."""
        return parse_manifest(self.read_file(bundle_id, MANIFEST_NAME))

    def add(self, staging: Path, manifest: Manifest) -> None:
        """Upload the files, then the manifest where none is yet; an earlier removal is ended first.

        Raises:
            BundleError: somebody else published this id meanwhile.
        """
        bundle_id = manifest.bundle_id
        with self._reached():
            if self._objects.exists(_tombstone(bundle_id)):
                self.purge(bundle_id)
            for name in sorted(manifest.files):
                self._objects.upload(f"{bundle_id}/{name}", staging / name)
            try:
                content = (staging / MANIFEST_NAME).read_bytes()
                self._objects.create(_manifest(bundle_id), content)
            except FileExistsError as error:
                raise BundleError(
                    f"bundle {bundle_id} is already in {self._url}; "
                    "bundles are never overwritten, publish under a new id"
                ) from error

    def fetch(self, bundle_id: str, cache_dir: Path) -> Path:
        """The cached copy if it is still right, else a new download.

        Replicas of a node share the cache, so one of them downloads while the others wait: two
        who both found no copy would each move the other's aside.
        """
        manifest = self.read_manifest(bundle_id)
        cached = (cache_dir / bundle_id).absolute()
        if _is_intact(cached, manifest):
            return cached
        with (
            unfinished_directory(cache_dir, bundle_id) as copy,
            folder_lock(cache_dir, is_shared=False),
        ):
            if _is_intact(cached, manifest):
                return cached
            for name in (*sorted(manifest.files), MANIFEST_NAME):
                self._download(bundle_id, name, copy / name)
            verify_bundle(copy)
            _set_aside(cached, copy)
            finish_directory(copy, cached)
        return cached

    def read_file(self, bundle_id: str, name: str) -> bytes:
        """One object of the bundle's prefix."""
        try:
            with self._reached():
                return self._objects.read(f"{bundle_id}/{name}")
        except FileNotFoundError as error:
            raise BundleCorrupt(f"{name} of bundle {bundle_id} is missing") from error

    def stored_s(self, bundle_id: str) -> float | None:
        """When the manifest was written, where the store says so."""
        try:
            return self._objects.modified_s(_manifest(bundle_id))
        except OSError:
            return None

    def hidden(self) -> list[str]:
        """Ids of the manifests under `.gone/`."""
        with self._reached():
            names = [name.rpartition("/")[2] for name in self._objects.names(_HIDDEN)]
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def hide(self, bundle_id: str) -> bool:
        """Keep the manifest aside, then delete it, which makes it no bundle."""
        with self._reached():
            try:
                content = self._objects.read(_manifest(bundle_id))
            except FileNotFoundError:
                return False
            self._objects.write(_tombstone(bundle_id), content)
            self._objects.remove(_manifest(bundle_id))
        return True

    def show(self, bundle_id: str) -> bool:
        """Put the manifest back, if every file that it names is there."""
        with self._reached():
            try:
                content = self._objects.read(_tombstone(bundle_id))
                wanted = parse_manifest(content).files
            except (FileNotFoundError, BundleCorrupt):
                return self.holds(bundle_id)
            present = set(self._objects.names(bundle_id))
            if not all(f"{bundle_id}/{name}" in present for name in wanted):
                return False
            self._objects.write(_manifest(bundle_id), content)
            self._objects.remove(_tombstone(bundle_id))
        return True

    def purge(self, bundle_id: str) -> None:
        """Delete the manifest, the files, and what was kept aside as the last."""
        with self._reached():
            self._objects.remove(_manifest(bundle_id))
            for name in self._objects.names(bundle_id):
                self._objects.remove(name)
            self._objects.remove(_tombstone(bundle_id))

    def _download(self, bundle_id: str, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._reached():
                self._objects.download(f"{bundle_id}/{name}", target)
        except FileNotFoundError as error:
            raise BundleCorrupt(f"{name} of bundle {bundle_id} is missing") from error

    @contextmanager
    def _reached(self) -> Generator[None]:
        """Errors of the store as sentences; what is missing and a full disk are the caller's."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise
            raise self._unreachable(error) from error

    def _unreachable(self, error: OSError) -> StoreError:
        return StoreError(
            f"registry {plain_place(self._url)} cannot be used: {error}; "
            "check the setting registry_url, the credentials in the environment and the network"
        )


def _manifest(bundle_id: str) -> str:
    return f"{bundle_id}/{MANIFEST_NAME}"


def _tombstone(bundle_id: str) -> str:
    return f"{_HIDDEN}/{bundle_id}.json"


def _is_intact(cached: Path, manifest: Manifest) -> bool:
    try:
        return verify_bundle(cached) == manifest
    except BundleCorrupt:
        return False


def _set_aside(cached: Path, copy: Path) -> None:
    """Move a damaged cached copy, if there is any, to where leftovers are removed in time."""
    with suppress(FileNotFoundError):
        cached.rename(copy.with_name(f"{copy.name}-damaged"))
