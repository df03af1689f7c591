"""The embedded feature store's file: opened to write, set aside where it cannot be used, replaced.

Everything in it is computed from lake and log, so a file that is damaged or of an older layout is
no loss: it is renamed and an empty one begun, which the feature stream fills again.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from pathlib import Path

from recsys.errors import StoreError
from recsys.stores.features.feature_tables import DELETED_INDEX, LAYOUT, select_identity
from recsys.stores.folder_lock import folder_lock
from recsys.stores.sqlite_file import (
    COMPANIONS,
    DamagedFile,
    open_writable,
    store_errors,
    transaction,
)

_log = logging.getLogger(__name__)

_CACHE_KB = 32_000
_CHECKPOINT_PAGES = 4_000
"""Pages of the write-ahead log before they move to the file: histories that change again soon are
moved once."""

_MAX_IDENTITY = 2**31 - 1


def open_to_write(path: Path) -> sqlite3.Connection:
    """A connection to the store; one that cannot be used is set aside for an empty one.

    Raises:
        StoreError: it cannot be opened, holds something else, or a newer program made it.
    """
    try:
        return _open(path)
    except DamagedFile as error:
        return begin_anew(path, str(error))
    except StoreError as error:
        if not _is_older(path):
            raise
        return begin_anew(path, str(error))


def begin_anew(path: Path, reason: str) -> sqlite3.Connection:
    """Set the file aside and begin an empty one, unless another process has done so already."""
    with store_errors(LAYOUT, path), folder_lock(path.parent, is_shared=False):
        if _is_usable(path):
            return _open(path)
        aside = path.with_name(f"{path.name}.unusable-{time.time_ns() // 1_000_000}")
        path.rename(aside)
        for companion in COMPANIONS:
            found = path.with_name(path.name + companion)
            if found.exists():
                found.rename(aside.with_name(aside.name + companion))
        connection = _open(path)
    _log.error(
        f"{reason}; it was set aside as {aside} and an empty one begun: the feature stream fills it"
        " from lake and log, and then it can be deleted"
    )
    return connection


def replace_contents(path: Path, by: Path) -> None:
    """Give the store the contents of another file in one step; readers and writers stay.

    Never by renaming: the write-ahead log of the old file would be taken for the new one's.

    Raises:
        StoreError: one of them cannot be opened, or the store was not to be had for a while.
    """
    target = open_to_write(path)
    try:
        source = _open(by)
        try:
            with store_errors(LAYOUT, path):
                source.backup(target, pages=-1)
                target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            source.close()
    finally:
        target.close()


def inode_of(path: Path) -> int:
    """What tells one file at a path from the next; 0 where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _open(path: Path) -> sqlite3.Connection:
    connection = open_writable(path, LAYOUT)
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
    connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    try:
        with store_errors(LAYOUT, path):
            connection.execute(DELETED_INDEX)
            _give_identity(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _give_identity(connection: sqlite3.Connection) -> None:
    """A number of its own for a file that has none: it goes where the contents are copied to."""
    if select_identity(connection):
        return
    with transaction(connection):
        # Another writer may have been faster.
        if not select_identity(connection):
            connection.execute(f"PRAGMA user_version={1 + secrets.randbelow(_MAX_IDENTITY)}")


def _is_usable(path: Path) -> bool:
    """Whether the file is of this layout and whole, as far as SQLite can tell."""
    try:
        connection = _open(path)
    except StoreError:
        return False
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()


def _is_older(path: Path) -> bool:
    """Whether the file is a feature store of an earlier layout."""
    try:
        with store_errors(LAYOUT, path):
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
            try:
                meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            finally:
                connection.close()
    except StoreError:
        return False
    version = str(meta.get("layout_version", ""))
    return meta.get("layout") == LAYOUT.name and version.isdigit() and int(version) < LAYOUT.version
