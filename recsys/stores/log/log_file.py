"""The embedded log's file: its connections, and what happens when it is damaged or replaced.

A damaged file is renamed under the folder's lock and a fresh one begun past its offsets; whoever
has the old one open finds out by its inode.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from recsys.errors import ConfigError
from recsys.stores.folder_lock import folder_lock
from recsys.stores.log.log_tables import LAYOUT, end_offsets, find_damage, make_partitions
from recsys.stores.log.reserved_offsets import ReservedOffsets
from recsys.stores.sqlite_file import (
    COMPANIONS,
    DamagedFile,
    open_writable,
    set_aside,
    store_errors,
    transaction,
)

_log = logging.getLogger(__name__)

_MIN_RECORD_BYTES = 64
"""No record takes less on disk: a bound of how many a file can have held."""


class LogFile:
    """One process's hold on the log's file; its caller sees to it that one thread changes it.

    Args:
        path: the file; made where missing.
        sets_aside: whether a damaged file is this process's to replace.
    """

    def __init__(self, path: Path, n_partitions: int, *, sets_aside: bool) -> None:
        self.path = path
        self.reserved = ReservedOffsets(path.with_name(f"{path.name}.reserved"))
        self.n_set_aside = 0
        self._n_partitions = n_partitions
        self._sets_aside = sets_aside
        self._is_closed = False
        self._inode: int | None = None
        """Of the file that is open."""
        try:
            self._open()
        except DamagedFile as error:
            self.begin_anew(error)

    @property
    def is_replaced(self) -> bool:
        """Whether the path leads to another file than the open one."""
        try:
            return self.path.stat().st_ino != self._inode
        except OSError:
            return True

    def follow_replacement(self) -> None:
        """Open what stands at the path now, if that is another file."""
        if not self._is_closed and self.is_replaced:
            self._close_connections()
            self._open()

    def begin_anew(self, error: DamagedFile) -> None:
        """Set the damaged file aside and open a fresh one, where that is this process's to do."""
        if not self._sets_aside:
            raise error
        self._close_connections()
        with store_errors(LAYOUT, self.path), folder_lock(self.path.parent, is_shared=False):
            if self._inode is None or self.is_replaced:
                # Perhaps another process was faster.
                with suppress(DamagedFile):
                    self._connect()
                    return
            if not self.reserved.load():
                self.reserved.reserve_at_least(self._n_records_at_most(), self._n_partitions)
            aside = set_aside(self.path, time.time_ns() // 1_000_000)
            self._connect()
        self.n_set_aside += 1
        _log.error(
            f"{error}; it was set aside as {aside} and a fresh log begun, past the old offsets:"
            " events that no follower had read yet are only in the old file"
        )

    def close(self) -> None:
        """Give the file back for good."""
        self._is_closed = True
        self._close_connections()

    def _open(self) -> None:
        with store_errors(LAYOUT, self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # While somebody holds this lock nobody renames the file.
            with folder_lock(self.path.parent, is_shared=True):
                self._connect()

    def _connect(self) -> None:
        self.writer = open_writable(self.path, LAYOUT)
        try:
            # Readers have their own connection, so that they never wait for a commit's fsync.
            self.reader = open_writable(self.path, LAYOUT)
            self._fix_partitions()
            if self._sets_aside:
                with store_errors(LAYOUT, self.path):
                    find_damage(self.writer, self.path.stat().st_size)
            self._inode = self.path.stat().st_ino
        except BaseException:
            self._close_connections()
            raise

    def _fix_partitions(self) -> None:
        with store_errors(LAYOUT, self.path), transaction(self.writer):
            found = len(end_offsets(self.writer))
            if not found:
                starts = self.reserved.load()
                make_partitions(
                    self.writer, {p: starts.get(p, 0) for p in range(self._n_partitions)}
                )
        if found not in {0, self._n_partitions}:
            raise ConfigError(
                f"events.n_partitions is {self._n_partitions}, but event log {self.path} was made"
                f" with {found}; set it to {found}, or start with another data_dir"
            )

    def _n_records_at_most(self) -> int:
        files = [self.path, *(self.path.with_name(self.path.name + end) for end in COMPANIONS)]
        return sum(file.stat().st_size for file in files if file.exists()) // _MIN_RECORD_BYTES

    def _close_connections(self) -> None:
        for name in ("writer", "reader"):
            connection: sqlite3.Connection | None = getattr(self, name, None)
            if connection is not None:
                connection.close()
