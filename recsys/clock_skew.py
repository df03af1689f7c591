"""Which replicas live, and whose clock is off: pure, over rows that replicas write by own clocks.

That a heartbeat moves is seen on the reader's clock alone, so a wrong clock kills no replica and
keeps no dead one alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

FRESH_MS = 5_000
"""A replica whose heartbeat has not moved for longer is not counted as living."""
SKEW_MS = 2_000
"""Clocks that differ by less are as equal as heartbeats can show."""


class Heartbeat(Protocol):
    """A row that a replica writes anew, such as a readiness or a member."""

    @property
    def replica_id(self) -> str:
        """Whose row it is."""

    @property
    def heartbeat_ms(self) -> int:
        """When it was written, by the replica's own clock."""


@dataclass(frozen=True, slots=True)
class Skew:
    """A living replica whose clock differs from the reader's."""

    replica_id: str
    offset_ms: int
    """Above 0 is ahead; as far as the age of the newest heartbeat lets one know."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A replica's newest heartbeat, and when a reader saw it move."""

    heartbeat_ms: int
    moved_ms: int | None
    """By the reader's clock; None while it was seen once only."""


def newest_beats(rows: Sequence[Heartbeat]) -> dict[str, int]:
    """The latest heartbeat of each replica; 0 is of one that said good-bye."""
    newest: dict[str, int] = {}
    for row in rows:
        newest[row.replica_id] = max(row.heartbeat_ms, newest.get(row.replica_id, 0))
    return newest


def follow_beats(
    beats: Mapping[str, Beat], rows: Sequence[Heartbeat], now_ms: int
) -> dict[str, Beat]:
    """What is known after one more look; replicas without a row are forgotten.

    A clock that was set back moves its heartbeat too: any change is a sign of life.
    """
    found = {}
    for replica_id, heartbeat_ms in newest_beats(rows).items():
        before = beats.get(replica_id)
        if before is None:
            found[replica_id] = Beat(heartbeat_ms, None)
        elif before.heartbeat_ms == heartbeat_ms:
            found[replica_id] = before
        else:
            found[replica_id] = Beat(heartbeat_ms, now_ms if heartbeat_ms else None)
    return found


def living_replicas(
    beats: Mapping[str, Beat], now_ms: int, fresh_ms: int = FRESH_MS
) -> AbstractSet[str]:
    """Who was seen to move lately; of who was seen once only, the replica's clock is believed."""
    return {
        replica_id
        for replica_id, beat in beats.items()
        if abs(now_ms - (beat.heartbeat_ms if beat.moved_ms is None else beat.moved_ms)) <= fresh_ms
    }


def skewed(
    rows_before: Sequence[Heartbeat],
    rows_now: Sequence[Heartbeat],
    now_ms: int,
    tolerance_ms: int = SKEW_MS,
    period_ms: int = FRESH_MS,
) -> list[Skew]:
    """Replicas that live, their heartbeat having moved, and whose clock is off; by name.

    Args:
        rows_before: of a look one heartbeat or more earlier.
        period_ms: a heartbeat may be so old; being behind by less is no skew.
    """
    before = newest_beats(rows_before)
    found = []
    for replica_id, heartbeat_ms in sorted(newest_beats(rows_now).items()):
        offset_ms = heartbeat_ms - now_ms
        has_moved = before.get(replica_id, heartbeat_ms) != heartbeat_ms and heartbeat_ms
        if has_moved and (offset_ms > tolerance_ms or offset_ms < -(tolerance_ms + period_ms)):
            found.append(Skew(replica_id, offset_ms))
    return found
