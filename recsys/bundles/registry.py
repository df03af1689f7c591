"""The registry: bundles by id, immutable, in a local directory or in any fsspec bucket.

Its only writer is `train_app.publish`; everybody else lists, reads and verifies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from recsys.bundles.bundle import Manifest, check_bundle_id, verify_bundle
from recsys.errors import BundleCorrupt, BundleError, BundleNotFound
from recsys.settings import Settings


class BundleStore(Protocol):
    """Where bundles lie; `DirectoryStore` and `BucketStore` are the two kinds."""

    def candidates(self) -> list[str]:
        """Names that may be bundles, half-written ones left out where that can be told."""

    def holds(self, bundle_id: str) -> bool:
        """Whether a whole bundle of that id was published."""

    def read_manifest(self, bundle_id: str) -> Manifest:
        """The manifest as stored; `BundleCorrupt` if it is unusable."""

    def add(self, staging: Path, manifest: Manifest) -> None:
        """Make a verified staging directory visible, whole or not at all."""

    def fetch(self, bundle_id: str, cache_dir: Path) -> Path:
        """A verified local directory of the bundle."""


class Registry:
    """Bundles at `url`: a path, `file://...`, or any fsspec URL such as `s3://bucket/bundles`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = _open_store(url)

    def publish(self, staging_dir: Path) -> Manifest:
        """Verify a finished bundle directory and add a copy of it under its id.

        Raises:
            BundleCorrupt: the staging directory is not what its manifest says.
            BundleError: a bundle of that id is already there; ids are never overwritten.
            StoreError: the registry could not be written; nothing became visible.
        """
        manifest = verify_bundle(staging_dir)
        if self._store.holds(manifest.bundle_id):
            raise BundleError(
                f"bundle {manifest.bundle_id} is already in {self.url}; "
                "bundles are never overwritten, publish under a new id"
            )
        self._store.add(staging_dir, manifest)
        return manifest

    def list_bundles(self) -> list[Manifest]:
        """Manifests of all readable bundles, newest first; see `broken` for the others."""
        return self.survey()[0]

    def broken(self) -> list[tuple[str, str]]:
        """Id and reason of everything that looks like a bundle and cannot be read as one."""
        return self.survey()[1]

    def survey(self) -> tuple[list[Manifest], list[tuple[str, str]]]:
        """`list_bundles` and `broken` in one pass; reads manifests, not the other files."""
        manifests: list[Manifest] = []
        broken: list[tuple[str, str]] = []
        for name in sorted(self._store.candidates()):
            try:
                manifests.append(self._read(name))
            except BundleError as error:
                broken.append((name, str(error)))
        manifests.sort(key=lambda manifest: (manifest.created_at, manifest.bundle_id), reverse=True)
        return manifests, broken

    def exists(self, bundle_id: str) -> bool:
        """Whether a bundle of that id was published."""
        return self._store.holds(check_bundle_id(bundle_id))

    def manifest(self, bundle_id: str) -> Manifest:
        """The manifest of one bundle.

        Raises:
            BundleNotFound: there is none of that id; the message names the newest ones.
            BundleCorrupt: its manifest is unusable.
        """
        check_bundle_id(bundle_id)
        if bundle_id not in self._store.candidates():
            newest = ", ".join(m.bundle_id for m in self.list_bundles()[:3]) or "none"
            raise BundleNotFound(
                f"bundle {bundle_id} is not in {self.url} (newest there: {newest}); "
                "see 'cluster bundle list'"
            )
        return self._read(bundle_id)

    def fetch(self, bundle_id: str, cache_dir: Path) -> Path:
        """A local directory with the verified bundle.

        A local registry answers with its own directory; from a bucket the files are downloaded
        once into `cache_dir` and kept.

        Raises:
            BundleNotFound: there is none of that id.
            BundleCorrupt: a file is not the published one; the message names it.
            StoreError: the registry could not be read.
        """
        self.manifest(bundle_id)
        return self._store.fetch(bundle_id, cache_dir)

    def _read(self, bundle_id: str) -> Manifest:
        manifest = self._store.read_manifest(check_bundle_id(bundle_id))
        if manifest.bundle_id != bundle_id:
            raise BundleCorrupt(
                f"manifest.json in {bundle_id} is that of bundle {manifest.bundle_id}; "
                "a bundle must not be renamed, publish it again"
            )
        return manifest


def bundle_cache(settings: Settings) -> Path:
    """Where this machine keeps bundles it downloaded."""
    return settings.data_dir / "cache" / "bundles"


def _open_store(url: str) -> BundleStore:
    protocol, separator, rest = url.partition("://")
    if not separator or protocol in {"file", "local"}:
        from recsys.bundles.registry_directory import DirectoryStore

        return DirectoryStore(Path(rest if separator else url))
    from recsys.bundles.registry_bucket import BucketStore

    return BucketStore(url)
