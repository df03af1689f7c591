"""Decides how much of the embedded log may go: what is old and has been taken by everybody. Pure.

Kafka trims itself by its topic's retention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec


class _Times(msgspec.Struct):
    timestamp: int = 0
    received_at: int | None = None


_decoder = msgspec.json.Decoder(_Times)


def taken_by_all(taken: Sequence[Mapping[int, int]], partition: int) -> int:
    """The offset of a partition up to which every follower has come; one that never ran is at 0."""
    return min((offsets.get(partition, 0) for offsets in taken), default=0)


def trim_before(begin: int, taken: int, is_old: Callable[[int], bool]) -> int:
    """The first offset of `begin..taken` that must stay, by looking at few records.

    Args:
        is_old: whether the record at an offset is past the retention; records come about in the
            order of their times.
    """
    low, high = begin, max(begin, taken)
    while low < high:
        middle = (low + high) // 2
        if is_old(middle):
            low = middle + 1
        else:
            high = middle
    return low


def record_time_ms(value: bytes) -> int | None:
    """When a record reached the log, as far as it says so; None where it says nothing."""
    try:
        times = _decoder.decode(value)
    except msgspec.MsgspecError:
        return None
    return times.received_at if times.received_at is not None else times.timestamp or None
