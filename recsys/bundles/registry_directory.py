"""Bundles in a local directory: published by copy, fsync and rename.

Knows names and disks; that a bundle is right is `bundle.verify_bundle`'s word.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from recsys.bundles.bundle import MANIFEST_NAME, Manifest, read_manifest, verify_bundle
from recsys.errors import BundleError, StoreError

LEFTOVER_AGE_S = 24 * 3600.0
"""A half-written publish or download older than this was killed and is removed."""


class DirectoryStore:
    """A directory with one subdirectory per bundle; names that start with a dot are unfinished."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def candidates(self) -> list[str]:
        """Subdirectories that are not unfinished."""
        try:
            return [
                path.name
                for path in self._root.iterdir()
                if path.is_dir() and not path.name.startswith(".")
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(
                f"registry {self._root} cannot be read: {error.strerror}; "
                "check the setting registry_url and the directory's permissions"
            ) from error

    def holds(self, bundle_id: str) -> bool:
        """A directory only ever appears whole, so being there is enough."""
        return (self._root / bundle_id / MANIFEST_NAME).exists()

    def read_manifest(self, bundle_id: str) -> Manifest:
        """The manifest in the bundle's directory."""
        return read_manifest(self._root / bundle_id)

    def add(self, staging: Path, manifest: Manifest) -> None:
        """Copy beside the target, make it durable, check the copy, rename."""
        with unfinished_directory(self._root, manifest.bundle_id) as copy:
            for name in (*manifest.files, MANIFEST_NAME):
                target = copy / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(staging / name, target)
                _fsync(target)
            verify_bundle(copy)
            finish_directory(copy, self._root / manifest.bundle_id)

    def fetch(self, bundle_id: str, cache_dir: Path) -> Path:
        """The directory itself, once verified; `cache_dir` is not needed."""
        directory = (self._root / bundle_id).absolute()
        verify_bundle(directory)
        return directory


@contextmanager
def unfinished_directory(root: Path, bundle_id: str) -> Generator[Path]:
    """A new directory that no reader sees, removed again unless `finish_directory` renamed it.

    Raises:
        StoreError: the disk said no; the message says what to do.
    """
    copy: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix=f".{bundle_id}.tmp-", dir=root))
        _remove_leftovers(root, copy)
        yield copy
    except OSError as error:
        raise StoreError(_write_failure(bundle_id, root, error)) from error
    finally:
        if copy is not None:
            shutil.rmtree(copy, ignore_errors=True)


def finish_directory(copy: Path, target: Path) -> None:
    """Give a finished directory its name, durably; never replaces another bundle."""
    copy.chmod(0o755)
    for folder, _, _ in os.walk(copy):
        _fsync(Path(folder))
    try:
        copy.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise BundleError(
                f"bundle {target.name} is already in {target.parent}; "
                "bundles are never overwritten, publish under a new id"
            ) from error
        raise
    _fsync(target.parent)


def _remove_leftovers(root: Path, newest: Path) -> None:
    """Ages are told by the file system's own clock: `newest` was made just now."""
    now_s = newest.stat().st_mtime
    for path in root.glob(".*.tmp-*"):
        try:
            is_old = now_s - path.stat().st_mtime > LEFTOVER_AGE_S
        except FileNotFoundError:
            continue
        if is_old:
            shutil.rmtree(path, ignore_errors=True)


def _write_failure(bundle_id: str, root: Path, error: OSError) -> str:
    what = f"bundle {bundle_id} could not be written to {root}: {error.strerror or error}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{what}; free some space there (old bundles, data_dir/run/*.log) and run it again"
    return f"{what}; check the directory's permissions and the disk, and run it again"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
