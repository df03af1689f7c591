"""One file of the spool: what it holds behind the place up to which it was passed over.

A torn tail is cut off; damage is kept in a copy beside the file and passed over.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from recsys.stores.spool.spool_segment import SpooledRecord, is_torn_tail, parse_segment

_log = logging.getLogger(__name__)

SUFFIX = ".spool"
_READ_SUFFIX = ".read"
_POSITION_DIGITS = 20
_OF_THE_FILE = frozenset({errno.EISDIR, errno.ENOENT, errno.ELOOP, errno.EINVAL})
"""Errors that are one file's own and will not pass; others are this process's or the disk's."""
_MAY_BE_OF_THE_FILE = frozenset({errno.EACCES, errno.EPERM, errno.EIO})
"""Errors that pass where a disk or a mount comes back, and are the file's own where they stay."""
GIVE_UP_AFTER_S = 300.0
"""How long a file fails with one of those before the others go on without it."""


def segment_path(directory: Path, number: int) -> Path:
    """The file of a segment: names in order are segments in order."""
    return directory / f"{number:012d}{SUFFIX}"


def segment_paths(directory: Path) -> list[Path]:
    """The segments of a folder, oldest first."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def free_number(directory: Path, below: int) -> int:
    """The highest number below this one and below whatever stands in the folder.

    The position of a file that is gone counts too: it must not be taken for another file's.
    """
    names = [*directory.glob(f"*{SUFFIX}"), *directory.glob(f"*{_READ_SUFFIX}")]
    return min([below, *(int(path.stem) for path in names)]) - 1


@dataclass(slots=True)
class FailingFiles:
    """Since when which files cannot be read, as one process has seen it."""

    now_s: Callable[[], float]
    """Of a clock that only goes forward."""
    since_s: dict[Path, float] = field(default_factory=dict)

    def will_not_pass(self, path: Path, error: OSError) -> bool:
        """Whether an error that a file has met is its own, and has been for long enough."""
        if error.errno in _OF_THE_FILE:
            return True
        if error.errno not in _MAY_BE_OF_THE_FILE:
            return False
        return self.now_s() - self.since_s.setdefault(path, self.now_s()) >= GIVE_UP_AFTER_S

    def forget(self, path: Path) -> None:
        """The file was read, or is out of the queue."""
        self.since_s.pop(path, None)


@dataclass(slots=True)
class SpoolFile:
    """One segment, as its owner knows it."""

    path: Path
    n_bytes: int = 0
    n_records: int = 0
    """Not yet passed over."""
    n_corrupt: int = 0
    """1 where a copy was set aside for its damage."""
    read_offset: int = 0
    is_given_up: bool = False
    """Whether the file stands under another name, out of the queue."""

    @property
    def number(self) -> int:
        """Its place in the queue."""
        return int(self.path.stem)

    def load(self) -> deque[SpooledRecord]:
        """What stands behind the position; the count of records is corrected by it."""
        with self.path.open("rb") as file:
            file.seek(self.read_offset)
            data = file.read(max(0, self.n_bytes - self.read_offset))
        parsed = parse_segment(data, self.read_offset)
        tail = data[parsed.end - self.read_offset :]
        if is_torn_tail(tail):
            # Nobody appends to what was found: a tail that stays is only read again.
            with suppress(OSError):
                os.truncate(self.path, parsed.end)
            self.n_bytes, tail = parsed.end, b""
        if parsed.n_damaged_bytes or tail:
            self._set_aside(parsed.n_damaged_bytes + len(tail))
        self.n_records = len(parsed.records)
        return deque(parsed.records)

    def keep_position(self) -> None:
        """Write down how far it was passed over; without that a crash only repeats records."""
        try:
            descriptor = os.open(self._read_path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(descriptor, f"{self.read_offset:0{_POSITION_DIGITS}d}".encode(), 0)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            _log.warning(f"{self._read_path} could not be written: {error}")

    def move(self, path: Path) -> None:
        """Take another name; its position moves first, for it is useless alone."""
        if self._read_path.exists():
            self._read_path.rename(path.with_suffix(_READ_SUFFIX))
        self.path.rename(path)
        self.path = path

    def give_up(self, error: OSError, failing: FailingFiles) -> None:
        """Keep it under another name, where it holds up nobody, for its error will not pass.

        Raises:
            OSError: the error may pass, or the file cannot be renamed either.
        """
        if not failing.will_not_pass(self.path, error):
            raise error
        aside = _aside(self.path)
        try:
            self.path.rename(aside)
            outcome = f"it is kept as {aside.name}"
        except FileNotFoundError:
            outcome = "somebody has moved or deleted it"
        failing.forget(self.path)
        self.n_records, self.n_bytes, self.n_corrupt, self.is_given_up = 0, 0, 1, True
        _log.error(
            f"spool {self.path} cannot be read ({error.strerror or error}); {outcome}, and the"
            " events of the other files go on"
        )

    def remove(self) -> None:
        """Delete it."""
        self.path.unlink(missing_ok=True)
        self._read_path.unlink(missing_ok=True)

    @property
    def _read_path(self) -> Path:
        return self.path.with_suffix(_READ_SUFFIX)

    def _set_aside(self, n_bytes: int) -> None:
        if self.n_corrupt:
            return
        self.n_corrupt = 1
        aside = _aside(self.path)
        try:
            aside.hardlink_to(self.path)
        except OSError as error:
            _log.warning(f"{self.path} cannot be set aside as {aside.name}: {error}")
        _log.error(
            f"spool {self.path} is damaged: {n_bytes} bytes are no events; it is kept as"
            f" {aside.name}, and what can be read of it goes on"
        )


def _aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return path.with_name(f"{path.name}.corrupt-{stamp}")


def found_segments(directory: Path, failing: FailingFiles) -> list[SpoolFile]:
    """The segments of an earlier life, oldest first, each read through once to know what it holds.

    One that cannot be read for a fault of its own is set aside and holds nothing then.

    Raises:
        OSError: one cannot be read now, and none is set aside; or one cannot be set aside.
    """
    segments = [SpoolFile(path) for path in segment_paths(directory)]
    hopeless: list[tuple[SpoolFile, OSError]] = []
    passing: list[OSError] = []
    for segment in segments:
        try:
            segment.n_bytes = segment.path.stat().st_size
            _read_through(segment)
        except OSError as error:
            if failing.will_not_pass(segment.path, error):
                hopeless.append((segment, error))
            else:
                passing.append(error)
        else:
            failing.forget(segment.path)
    if passing:
        raise passing[0]
    for segment, its_own in hopeless:
        segment.give_up(its_own, failing)
    return segments


def _read_through(segment: SpoolFile) -> None:
    path = segment.path
    try:
        text = path.with_suffix(_READ_SUFFIX).read_text()
        if len(text) == _POSITION_DIGITS:
            segment.read_offset = min(int(text), segment.n_bytes)
    except (OSError, ValueError):
        segment.read_offset = 0
    segment.load()
