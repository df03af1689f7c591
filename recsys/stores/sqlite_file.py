"""SQLite files as Flywheel keeps them: WAL, a layout version, errors that name file and mend.

Knows nothing of what a file holds; each store brings its layout.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.errors import StoreError

BUSY_TIMEOUT_S = 10.0
"""How long a connection waits for another process's transaction."""
COMPANIONS = ("-wal", "-shm")
"""Ends of the names of the files that belong to a database."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""System errors that say there is no room for more."""


class DamagedFile(StoreError):
    """A file's content cannot be read as what it should be."""


MAPPED_BYTES = 1 << 30
"""What a reading connection maps of its file: rows come without a copy and without a call."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file of one kind looks like, and what to do when one is broken."""

    name: str
    version: int
    tables: tuple[str, ...]
    page_bytes: int
    mend: str
    """What to do about a damaged file, as the end of a sentence."""
    synchronous: Literal["FULL", "NORMAL"]
    """FULL: a commit survives a power cut; NORMAL: the file does, its newest commits may not."""
    is_shrinkable: bool = False
    """Whether `shrink` can give pages back to the disk; for files made from now on."""


def open_writable(path: Path, layout: Layout) -> sqlite3.Connection:
    """A connection that may write; makes the file, its folder and its tables where missing.

    Raises:
        StoreError: the file cannot be opened, is no such store, or has another layout version.
    """
    with store_errors(layout, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(path, "rwc")
        try:
            _prepare(connection, layout, path)
        except BaseException:
            connection.close()
            raise
        return connection


def open_readable(path: Path, layout: Layout) -> sqlite3.Connection | None:
    """A connection that only reads; None where no writer has made the store yet."""
    if not path.exists():
        return None
    with store_errors(layout, path):
        # Not mode=ro: the first reader after a crash has to recover the write-ahead log.
        connection = _connect(path, "rw")
        try:
            if not _has_tables(connection):
                connection.close()
                return None
            _check_version(connection, layout, path)
            connection.execute("PRAGMA query_only=1")
            connection.execute(f"PRAGMA mmap_size={MAPPED_BYTES}").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """Take the write lock at once; commit at the end, or leave nothing behind."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have made SQLite roll back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def store_errors(layout: Layout, path: Path) -> Generator[None, None, None]:
    """Translate what SQLite and the file system raise into `StoreError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        kind = DamagedFile if _is_damage(error) else StoreError
        raise kind(_sentence(layout, path, error)) from error


def set_aside(path: Path, now_ms: int) -> Path:
    """Rename a damaged file and its companions to `NAME.corrupt-TIME`; answers the new path."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ms / 1000))
    aside = path.with_name(f"{path.name}.corrupt-{stamp}-{now_ms % 1000:03d}")
    path.rename(aside)
    for companion in COMPANIONS:
        found = path.with_name(path.name + companion)
        if found.exists():
            found.rename(aside.with_name(aside.name + companion))
    return aside


def shrink(connection: sqlite3.Connection, max_pages: int) -> None:
    """Give at most so many unused pages back to the disk."""
    connection.execute(f"PRAGMA incremental_vacuum({max_pages})").fetchall()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )


def _prepare(connection: sqlite3.Connection, layout: Layout, path: Path) -> None:
    connection.execute(f"PRAGMA page_size={layout.page_bytes}")
    if layout.is_shrinkable:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    _use_wal(connection)
    connection.execute(f"PRAGMA synchronous={layout.synchronous}")
    # What is deleted is a person's or may be: no byte of it stays in a free page.
    connection.execute("PRAGMA secure_delete=1").fetchall()
    if not _has_tables(connection):
        with transaction(connection):
            connection.execute(
                "CREATE TABLE IF NOT EXISTS meta"
                " (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
            )
            for statement in layout.tables:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO meta VALUES ('layout', ?), ('layout_version', ?)"
                " ON CONFLICT DO NOTHING",
                (layout.name, str(layout.version)),
            )
    _check_version(connection, layout, path)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; SQLite answers "busy" without waiting when two processes do so at once."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def _has_tables(connection: sqlite3.Connection) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'meta'"
    return bool(connection.execute(query).fetchone()[0])


def _check_version(connection: sqlite3.Connection, layout: Layout, path: Path) -> None:
    meta: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta"))
    found = (meta.get("layout"), meta.get("layout_version"))
    if found[0] != layout.name:
        raise StoreError(
            f"{path} is no {layout.name} but holds {found[0] or 'other tables'};"
            " name another file or folder in the settings"
        )
    if found[1] != str(layout.version):
        raise StoreError(
            f"{layout.name} {path} has layout version {found[1]}, this program reads"
            f" {layout.version}; use the release that wrote it, or {layout.mend}"
        )


def _is_damage(error: Exception) -> bool:
    name = getattr(error, "sqlite_errorname", "") or ""
    return name == "SQLITE_NOTADB" or name.startswith("SQLITE_CORRUPT")


def _sentence(layout: Layout, path: Path, error: Exception) -> str:
    where = f"{layout.name} {path}"
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"{where} could not be written, the disk is full; free space and try again"
    if isinstance(error, OSError):
        return f"{where} cannot be opened: {error.strerror or error}; check the folder"
    if isinstance(error, sqlite3.ProgrammingError):
        return f"{where} cannot be used: {error}; open it again"
    if name == "SQLITE_NOTADB":
        return f"{where} is not an SQLite database; {layout.mend}"
    if name.startswith("SQLITE_CORRUPT"):
        return f"{where} is damaged ({error}); {layout.mend}"
    if name == "SQLITE_FULL":
        return f"{where} could not be written, the disk is full; free space and try again"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return (
            f"{where} is held by another process's transaction for more than"
            f" {BUSY_TIMEOUT_S:.0f} s; find it with 'cluster doctor'"
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        able = os.access(path.parent, os.W_OK)
        mend = "check the file's owner and mode" if able else "make its folder writable"
        return f"{where} cannot be opened for writing ({error}); {mend}"
    if name.startswith("SQLITE_IOERR"):
        return f"{where} met an I/O error ({name}: {error}); check the disk and its free space"
    return f"{where} failed ({name or type(error).__name__}: {error}); {layout.mend}"
