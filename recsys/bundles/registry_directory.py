"""Bundles in a local directory: published by copy, fsync and rename; removed by rename and delete.

Knows names and disks; that a bundle is right is `bundle.verify_bundle`'s word.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from recsys.bundles.bundle import MANIFEST_NAME, Manifest, read_manifest, verify_bundle
from recsys.errors import BundleCorrupt, BundleError, StoreError

LEFTOVER_AGE_S = 24 * 3600.0
"""A half-written publish or download older than this was killed and is removed."""
_HIDDEN = ".gone"
"""A hidden bundle is `.<bundle_id>.gone`; it is whole as long as it has its manifest."""


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

    def read_file(self, bundle_id: str, name: str) -> bytes:
        """The file in the bundle's directory."""
        try:
            return (self._root / bundle_id / name).read_bytes()
        except OSError as error:
            raise BundleCorrupt(
                f"{name} of bundle {bundle_id} cannot be read: {error.strerror}"
            ) from error

    def stored_s(self, bundle_id: str) -> float | None:
        """When its newest entry was written, which is when it was published: that copies."""
        directory = self._root / bundle_id
        try:
            return max(path.stat().st_mtime for path in (directory, *directory.iterdir()))
        except OSError:
            return None

    def hidden(self) -> list[str]:
        """Directories whose removal was begun."""
        return [path.name[1 : -len(_HIDDEN)] for path in self._root.glob(f".*{_HIDDEN}")]

    def hide(self, bundle_id: str) -> bool:
        """Rename it, durably; whoever renames first removes it."""
        target = self._hidden(bundle_id)
        try:
            if target.exists() and (self._root / bundle_id).exists():
                self.purge(bundle_id)
            (self._root / bundle_id).rename(target)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unwritable(bundle_id, error) from error
        _fsync(self._root)
        return True

    def show(self, bundle_id: str) -> bool:
        """Rename it back, if it is whole and nobody published it again."""
        hidden = self._hidden(bundle_id)
        if not (hidden / MANIFEST_NAME).exists():
            return False
        try:
            hidden.rename(self._root / bundle_id)
        except OSError:
            return self.holds(bundle_id)
        _fsync(self._root)
        return True

    def purge(self, bundle_id: str) -> None:
        """Delete the manifest, after which it is whole no more, and then the rest."""
        hidden = self._hidden(bundle_id)
        with suppress(FileNotFoundError, NotADirectoryError):
            (hidden / MANIFEST_NAME).unlink()
        shutil.rmtree(hidden, ignore_errors=True)
        if hidden.exists():
            reason = OSError(errno.EACCES, "some of its files cannot be deleted")
            raise self._unwritable(bundle_id, reason)

    def _hidden(self, bundle_id: str) -> Path:
        return self._root / f".{bundle_id}{_HIDDEN}"

    def _unwritable(self, bundle_id: str, error: OSError) -> StoreError:
        return StoreError(
            f"bundle {bundle_id} in {self._root} could not be removed: "
            f"{error.strerror or error}; check the directory's permissions and run it again"
        )


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
