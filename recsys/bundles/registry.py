"""The registry: bundles by id, immutable, in a local directory or in any fsspec bucket.

Only `train_app.publish` adds to it and only `cluster.bundles.removal` takes away; everybody else
lists, reads and verifies. A bundle goes in two steps, so that a killed removal leaves either the
whole bundle or none: hidden, when it can still be shown again, and then purged.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from recsys.bundles.bundle import (
    Manifest,
    check_bundle_id,
    read_manifest,
    sign_bundle,
    verify_bundle,
)
from recsys.bundles.signatures import BundleTrust, check_signature, trust_in
from recsys.errors import BundleCorrupt, BundleError, BundleNotFound
from recsys.settings import Settings
from recsys.settings_secrets import bare_url


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

    def read_file(self, bundle_id: str, name: str) -> bytes:
        """The bytes of one file as stored; `BundleCorrupt` if it is missing."""

    def stored_s(self, bundle_id: str) -> float | None:
        """Unix time in seconds at which it became visible; None where that cannot be told."""

    def hidden(self) -> list[str]:
        """Ids of bundles that were hidden and not purged."""

    def hide(self, bundle_id: str) -> bool:
        """Make a bundle invisible; False if it is not there."""

    def show(self, bundle_id: str) -> bool:
        """Make a hidden bundle visible again; False if parts of it are gone."""

    def purge(self, bundle_id: str) -> None:
        """Delete what is left of a hidden bundle; again is as good as once."""


ANYBODY = BundleTrust()


class Registry:
    """Bundles at `url`: a path, `file://...`, or any fsspec URL such as `s3://bucket/bundles`.

    Args:
        trust: whose bundles are fetched, and with what those published are signed.
    """

    def __init__(self, url: str, trust: BundleTrust = ANYBODY) -> None:
        self.url = bare_url(url)
        self._trust = trust
        self._store = _open_store(url)

    def publish(self, staging_dir: Path) -> Manifest:
        """Verify a finished bundle directory and add a copy of it under its id.

        Raises:
            BundleCorrupt: the staging directory is not what its manifest says.
            BundleError: a bundle of that id is already there; ids are never overwritten.
            BundleUntrusted: a signature is demanded, and there is no key to sign with.
            StoreError: the registry could not be written; nothing became visible.
        """
        if self._trust.signing_key_file:
            sign_bundle(staging_dir, Path(self._trust.signing_key_file))
        manifest = verify_bundle(staging_dir)
        self._check_trusted(manifest)
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
            BundleUntrusted: a signature is demanded, and nobody trusted has signed it.
            StoreError: the registry could not be read.
        """
        self._check_trusted(self.manifest(bundle_id))
        directory = self._store.fetch(bundle_id, cache_dir)
        # What was fetched may have changed since: it is what will be loaded.
        self._check_trusted(read_manifest(directory))
        return directory

    def read_file(self, manifest: Manifest, name: str) -> bytes:
        """One file of a bundle, without fetching the others.

        Raises:
            BundleCorrupt: it is missing, or is not the published one.
        """
        where = f"{name} of bundle {manifest.bundle_id}"
        if name not in manifest.files:
            raise BundleCorrupt(f"{where} is missing: its manifest names no such file")
        content = self._store.read_file(manifest.bundle_id, name)
        if hashlib.sha256(content).hexdigest() != manifest.files[name].sha256:
            raise BundleCorrupt(f"{where} was changed: its sha256 is not the manifest's")
        return content

    def stored_s(self, bundle_id: str) -> float | None:
        """When the bundle became visible, Unix seconds; None where that cannot be told."""
        return self._store.stored_s(check_bundle_id(bundle_id))

    def hidden(self) -> list[str]:
        """Ids whose removal was begun and not finished."""
        return sorted(self._store.hidden())

    def hide(self, bundle_id: str) -> bool:
        """Take a bundle out of sight; False if somebody did so before.

        Raises:
            StoreError: the registry could not be written.
        """
        return self._store.hide(check_bundle_id(bundle_id))

    def show(self, bundle_id: str) -> bool:
        """Bring a hidden bundle back; False if parts of it are gone."""
        return self._store.show(check_bundle_id(bundle_id))

    def purge(self, bundle_id: str) -> None:
        """Delete a hidden bundle for good."""
        self._store.purge(check_bundle_id(bundle_id))

    def _check_trusted(self, manifest: Manifest) -> None:
        if self._trust.trusted_keys is not None:
            check_signature(
                manifest.bundle_id,
                manifest.content_sha256,
                manifest.signature,
                self._trust.trusted_keys,
            )

    def _read(self, bundle_id: str) -> Manifest:
        manifest = self._store.read_manifest(check_bundle_id(bundle_id))
        if manifest.bundle_id != bundle_id:
            raise BundleCorrupt(
                f"manifest.json in {bundle_id} is that of bundle {manifest.bundle_id}; "
                "a bundle must not be renamed, publish it again"
            )
        return manifest


def open_registry(settings: Settings) -> Registry:
    """The registry of the settings, with whom they trust.

    Raises:
        ConfigError: signatures are demanded and `security.trusted_keys` names nobody.
    """
    security = settings.security
    trusted = trust_in(security.trusted_keys) if security.require_signed_bundles else None
    return Registry(settings.registry_location, BundleTrust(trusted, security.signing_key_file))


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
