"""Remembers, in eight bytes each, which event ids a partition has had lately.

A hash that was seen before is only a suspicion; `repeats` looks the id itself up in the lake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

MAX_IDS = 32_000_000
"""Ids remembered at once, all partitions together: 256 MB. Past that the oldest are let go."""
_MERGED_IDS = 2_000_000
"""Segments are not merged beyond this, so that they can be let go one by one."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Ids of one stretch of the log, sorted, and the time of the newest."""

    hashes: Hashes
    newest_ms: int


@dataclass(slots=True)
class _Partition:
    segments: list[_Segment] = field(default_factory=list)
    newest_ms: int = 0


class RecentIds:
    """The ids of the last `window_ms` of every partition, told by the times of its own records.

    Args:
        window_ms: how long an id is remembered.
        max_ids: ids kept at most, all partitions together.
    """

    def __init__(self, window_ms: int, max_ids: int = MAX_IDS) -> None:
        self._window_ms = window_ms
        self._max_ids = max_ids
        self._partitions: dict[int, _Partition] = {}

    def __len__(self) -> int:
        return sum(len(s.hashes) for part in self._partitions.values() for s in part.segments)

    def keep_only(self, partitions: Iterable[int]) -> None:
        """Let go of all but these partitions."""
        wanted = set(partitions)
        self._partitions = {p: part for p, part in self._partitions.items() if p in wanted}

    def suspects(self, partition: int, hashes: Hashes) -> Mask:
        """Which of these may have been there before; never misses one that is remembered."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        part = self._partitions.get(partition)
        for segment in part.segments if part is not None else ():
            found |= _contains(segment.hashes, hashes)
        return found

    def remember(self, partition: int, hashes: Hashes, newest_ms: int) -> None:
        """Add the ids of the next stretch of a partition."""
        if not len(hashes):
            return
        part = self._partitions.setdefault(partition, _Partition())
        part.newest_ms = max(part.newest_ms, newest_ms)
        part.segments.append(_Segment(np.sort(hashes), newest_ms))
        oldest_ms = part.newest_ms - self._window_ms
        part.segments = [s for s in part.segments if s.newest_ms >= oldest_ms]
        _merge_newest(part.segments)
        self._let_go_of_most()

    def _let_go_of_most(self) -> None:
        left = len(self) - self._max_ids
        while left > 0:
            fullest = max(
                self._partitions.values(), key=lambda p: sum(len(s.hashes) for s in p.segments)
            )
            left -= len(fullest.segments.pop(0).hashes)


def id_hashes(event_ids: Sequence[str]) -> Hashes:
    """The 64-bit hash of every id."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(i.encode()) for i in event_ids), np.uint64, len(event_ids))


def repeated_in(hashes: Hashes) -> Mask:
    """Which of these have an equal one before them."""
    repeated = np.ones(len(hashes), dtype=np.bool_)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    return repeated


def _contains(present: Hashes, asked: Hashes) -> Mask:
    places = np.searchsorted(present, asked)
    places[places == len(present)] = 0
    found: Mask = present[places] == asked
    return found


def _merge_newest(segments: list[_Segment]) -> None:
    """Join the last segments while the newer one is no smaller: few segments, amortised cost."""
    while len(segments) > 1:
        older, newer = segments[-2:]
        if len(older.hashes) > len(newer.hashes):
            return
        if len(older.hashes) + len(newer.hashes) > _MERGED_IDS:
            return
        joined = np.sort(np.concatenate([older.hashes, newer.hashes]), kind="stable")
        segments[-2:] = [_Segment(joined, max(older.newest_ms, newer.newest_ms))]
