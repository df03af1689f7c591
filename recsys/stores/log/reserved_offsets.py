"""How far the embedded log's offsets may have been given out, in a small file beside the log.

It outlives the log: a log begun anew starts past every offset that a follower may have stored, so
that followers see a gap instead of other records under known offsets. Its only writer is the log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

_log = logging.getLogger(__name__)

BLOCK = 10_000
"""Offsets reserved at once: one small durable write per so many records of a partition."""


class ReservedOffsets:
    """The reservations of one log; its callers hold the log's write lock.

    Args:
        path: the file; made by the first reservation.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserved: dict[int, int] = {}

    def load(self) -> dict[int, int]:
        """What is reserved by partition; empty where nothing is known."""
        try:
            self._reserved = msgspec.json.decode(self._path.read_bytes(), type=dict[int, int])
        except FileNotFoundError:
            self._reserved = {}
        except msgspec.MsgspecError as error:
            _log.warning(
                f"{self._path} holds no reserved offsets ({error}); it is written again from the"
                " log's own"
            )
            self._reserved = {}
        return dict(self._reserved)

    def cover(self, ends: Mapping[int, int]) -> None:
        """Return when every offset below `ends` is durably reserved."""
        if self._covers(ends):
            return
        self.load()
        if self._covers(ends):
            return
        self._write({partition: _round_up(end) for partition, end in ends.items()})

    def reserve_at_least(self, n_offsets: int, n_partitions: int) -> None:
        """Reserve so many in every partition, where nothing better is known."""
        self.load()
        self._write(dict.fromkeys(range(n_partitions), _round_up(n_offsets)))

    def _covers(self, ends: Mapping[int, int]) -> bool:
        known = self._reserved
        return all(end <= known.get(partition, -1) for partition, end in ends.items())

    def _write(self, wanted: Mapping[int, int]) -> None:
        partitions = self._reserved.keys() | wanted.keys()
        reserved = {
            partition: max(self._reserved.get(partition, 0), wanted.get(partition, 0))
            for partition in sorted(partitions)
        }
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(reserved))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        sync_folder(self._path.parent)
        self._reserved = reserved


def sync_folder(folder: Path) -> None:
    """Make names that were created or changed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _round_up(offset: int) -> int:
    """The end of the block after the one that `offset` falls into."""
    return (offset // BLOCK + 1) * BLOCK
