"""Which process has which folder of the spool; what a dead one left is taken over by another."""

from __future__ import annotations

import logging
import os
import re
import uuid
from pathlib import Path

from recsys.errors import StoreError
from recsys.stores.spool.spool import LOCK_NAME, Spool, take_lock

_log = logging.getLogger(__name__)

_MAX_NAME = 80


def own_spool(root: Path, owner: str, max_bytes: int) -> Spool:
    """A fresh folder of this process, with what dead processes left under `root` in it.

    Raises:
        StoreError: the folder cannot be made.
    """
    spool = _fresh_spool(root, re.sub(r"[^\w.-]+", "-", owner)[:_MAX_NAME], max_bytes)
    adopt_orphans(spool, root)
    return spool


def adopt_orphans(spool: Spool, root: Path) -> int:
    """Take over the segments of folders whose process is gone; answers how many.

    For the thread that reads the spool.
    """
    folders = [folder for folder in root.iterdir() if (folder / LOCK_NAME).is_file()]
    n_adopted = 0
    for folder in sorted(folders, key=_changed_ns, reverse=True):
        if folder != spool.directory:
            n_adopted += _adopt(spool, folder)
    return n_adopted


def _fresh_spool(root: Path, name: str, max_bytes: int) -> Spool:
    def make() -> Spool:
        return Spool(root / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}", max_bytes)

    try:
        return make()
    except StoreError:
        # Another process may have taken the folder for an orphan before it was locked.
        return make()


def _adopt(spool: Spool, folder: Path) -> int:
    try:
        lock_file = os.open(folder / LOCK_NAME, os.O_RDWR)
    except OSError:
        # Another process was faster.
        return 0
    try:
        if not take_lock(lock_file, folder / LOCK_NAME):
            return 0
        n_adopted = spool.adopt(folder)
        if n_adopted:
            _log.warning(
                f"took over {n_adopted} files of the spool {folder}, left by a dead process"
            )
        _remove(folder)
    except OSError as error:
        _log.warning(f"spool {folder} of a dead process cannot be taken over yet: {error}")
        return 0
    finally:
        os.close(lock_file)
    return n_adopted


def _remove(folder: Path) -> None:
    """Remove an emptied folder; one that keeps a damaged file stays."""
    if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
        (folder / LOCK_NAME).unlink()
        folder.rmdir()


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
