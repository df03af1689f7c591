"""A bounded queue of payloads on disk, for what the broker cannot take now: oldest first.

Its only writer is the process that holds the folder's lock. A payload is durable when `append`
returns; one that was read and not yet passed over is read again after a crash.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from recsys.errors import StoreError
from recsys.stores.log.reserved_offsets import sync_folder
from recsys.stores.spool.spool_file import (
    FailingFiles,
    SpoolFile,
    found_segments,
    free_number,
    segment_path,
)
from recsys.stores.spool.spool_segment import SpooledRecord, frame_records
from recsys.stores.sqlite_file import DISK_FULL

_log = logging.getLogger(__name__)

LOCK_NAME = "lock"
REFUSED_NAME = "refused.jsonl"
_SEGMENT_BYTES = 8 * 1024 * 1024
_FIRST_NUMBER = 1_000_000_000
"""Own segments count up from here; adopted ones, which are older, down."""


class Spool:
    """The queue in one folder; one thread reads it, any thread may append.

    Args:
        directory: belongs to this process from now on; made where missing.
        max_bytes: on disk; past that `append` fails.
        now_s: tells how long a file could not be read.

    Raises:
        StoreError: the folder cannot be used, or another process has it.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        *,
        segment_bytes: int = _SEGMENT_BYTES,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._failing = FailingFiles(now_s)
        self._segments: deque[SpoolFile] = deque()
        self._loaded: deque[SpooledRecord] = deque()
        self._n_corrupt = 0
        """Of files that are gone."""
        self.n_records = 0
        """Payloads that wait; like the next two counted under the lock and read without it."""
        self.n_bytes = 0
        """Size on disk."""
        self.n_corrupt = 0
        """Damaged files that were set aside."""
        self._writing: SpoolFile | None = None
        self._file = -1
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for folder in (directory.parent, directory.parent.parent):
                sync_folder(folder)
            self._lock_file = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
            if not take_lock(self._lock_file, directory / LOCK_NAME):
                os.close(self._lock_file)
                raise StoreError(
                    f"spool {directory} belongs to another process; name another folder"
                )
            self._segments.extend(found_segments(directory, self._failing))
        except OSError as error:
            raise StoreError(self._sentence(error)) from error
        with self._changing():
            self._drop_read()

    def append(self, payloads: Sequence[bytes]) -> None:
        """Store all payloads or none; durable on return.

        Raises:
            StoreError: the spool or the disk is full, or the disk fails.
        """
        data = frame_records(payloads)
        with self._changing():
            if self.n_bytes + len(data) > self._max_bytes:
                raise StoreError(
                    f"spool {self.directory} is full with {self.n_records} events in"
                    f" {self.n_bytes} bytes, events.spool_bytes allows {self._max_bytes}; bring the"
                    " broker back or allow more"
                )
            try:
                self._write(data, len(payloads))
            except OSError as error:
                self._take_back()
                raise StoreError(self._sentence(error)) from error

    def peek(self, limit: int) -> list[bytes]:
        """At most `limit` of the oldest payloads; they stay until `advance`.

        Raises:
            StoreError: a file cannot be read.
        """
        with self._changing():
            try:
                while not self._loaded and self._segments:
                    self._load_oldest()
                    self._drop_read()
            except OSError as error:
                raise StoreError(self._sentence(error)) from error
            return [record.payload for record in islice(self._loaded, limit)]

    def advance(self, n_payloads: int) -> None:
        """Pass over so many of the payloads that `peek` showed, for good."""
        with self._changing():
            segment = self._segments[0]
            for _ in range(n_payloads):
                segment.read_offset = self._loaded.popleft().end
            segment.n_records -= n_payloads
            if segment.n_records:
                segment.keep_position()
            else:
                self._drop_read()

    def adopt(self, directory: Path) -> int:
        """Put the segments of a dead process's folder before the own ones; answers how many.

        For the thread that reads, between `advance` and `peek`; the folder is locked by it.
        A file that cannot be read for a fault of its own is set aside there.

        Raises:
            OSError: a file cannot be read now, and nothing was taken; or it cannot be moved, and it
                stays where it is with all older ones.
        """
        # Read where they are: a file that is here and not in the queue would be lost.
        found = found_segments(directory, self._failing)
        whole = [segment for segment in found if not segment.is_given_up]
        if not found:
            return 0
        with self._changing():
            self._n_corrupt += len(found) - len(whole)
            try:
                for segment in reversed(whole):
                    self._adopt_segment(segment)
            finally:
                self._drop_read()
                sync_folder(self.directory)
        return len(whole)

    def refuse(self, payload: bytes) -> Path:
        """Keep a payload that nobody can take in a file beside the queue; answers the file."""
        path = self.directory / REFUSED_NAME
        try:
            with self._lock, path.open("ab") as file:
                file.write(payload + b"\n")
        except OSError as error:
            raise StoreError(self._sentence(error)) from error
        return path

    def close(self) -> None:
        """Leave the folder to others; what is in it stays."""
        with self._lock:
            self._stop_writing()
            if self._lock_file >= 0:
                os.close(self._lock_file)
                self._lock_file = -1

    @contextmanager
    def _changing(self) -> Generator[None, None, None]:
        """Hold the lock; what it has come to is told without it, for a commit takes its time."""
        with self._lock:
            try:
                yield
            finally:
                self.n_records = sum(segment.n_records for segment in self._segments)
                self.n_bytes = sum(segment.n_bytes for segment in self._segments)
                n_corrupt = sum(segment.n_corrupt for segment in self._segments)
                self.n_corrupt = self._n_corrupt + n_corrupt

    def _adopt_segment(self, segment: SpoolFile) -> None:
        first = self._segments[0].number if self._segments else _FIRST_NUMBER
        segment.move(segment_path(self.directory, free_number(self.directory, first)))
        self._segments.appendleft(segment)
        # What was loaded is of a segment that is not the oldest any more.
        self._loaded.clear()

    def _load_oldest(self) -> None:
        segment = self._segments[0]
        try:
            self._loaded = segment.load()
        except OSError as error:
            if segment is self._writing:
                raise
            segment.give_up(error, self._failing)
        else:
            self._failing.forget(segment.path)

    def _write(self, data: bytes, n_records: int) -> None:
        if self._lock_file < 0:
            raise StoreError(f"spool {self.directory} is closed; open it again")
        segment = self._writing
        if segment is None or segment.n_bytes + len(data) > self._segment_bytes:
            segment = self._begin_segment()
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)
        segment.n_bytes += len(data)
        segment.n_records += n_records

    def _begin_segment(self) -> SpoolFile:
        self._stop_writing()
        newest = self._segments[-1].number if self._segments else 0
        path = segment_path(self.directory, max(newest + 1, _FIRST_NUMBER))
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sync_folder(self.directory)
        self._writing = SpoolFile(path)
        self._segments.append(self._writing)
        return self._writing

    def _take_back(self) -> None:
        """Remove what a failed write left."""
        segment = self._writing
        if segment is None:
            return
        try:
            os.ftruncate(self._file, segment.n_bytes)
        except OSError as error:
            _log.warning(f"spool {segment.path} keeps the rest of a failed write: {error}")
            self._stop_writing()
        self._drop_read()

    def _stop_writing(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._writing = -1, None

    def _drop_read(self) -> None:
        """Remove the oldest segments as far as they were passed over."""
        while self._segments and not self._segments[0].n_records:
            segment = self._segments.popleft()
            if segment is self._writing:
                self._stop_writing()
            self._n_corrupt += segment.n_corrupt
            segment.remove()

    def _sentence(self, error: OSError) -> str:
        if error.errno in DISK_FULL:
            return f"spool {self.directory} could not be written, the disk is full; free space"
        return (
            f"spool {self.directory} could not be used ({error.strerror or error});"
            " check the folder and the disk"
        )


def take_lock(descriptor: int, path: Path) -> bool:
    """Whether the open lock file is ours now, and still the one at its path."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except OSError:
        return False
