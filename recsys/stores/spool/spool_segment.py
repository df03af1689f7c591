"""How payloads stand in a file of the spool, and how they are found again behind damage. Pure.

A record is a marker that no UTF-8 text contains, length, CRC-32 of length and payload, payload.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

MARKER = b"\xff\xfeEV"
_HEADER = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class SpooledRecord:
    """One payload, and where in its file the next record begins."""

    payload: bytes
    end: int


@dataclass(frozen=True, slots=True)
class ParsedSegment:
    """What a stretch of a file holds."""

    records: list[SpooledRecord]
    end: int
    """Where the last whole record ends: behind it stands at most the beginning of another."""
    n_damaged_bytes: int
    """Bytes before `end` that belong to no record."""


def frame_records(payloads: Sequence[bytes]) -> bytes:
    """The payloads as they stand in a file."""
    parts: list[bytes] = []
    for payload in payloads:
        parts += (_HEADER.pack(MARKER, len(payload), _checksum(payload)), payload)
    return b"".join(parts)


def parse_segment(data: bytes, base: int) -> ParsedSegment:
    """The records of `data`, which begins at `base` of its file.

    Bytes that are no record are passed over up to the next record that is whole.
    """
    records: list[SpooledRecord] = []
    at = end = n_damaged = 0
    while (start := data.find(MARKER, at)) >= 0:
        payload = _record_at(data, start)
        if payload is None:
            at = start + 1
            continue
        n_damaged += start - end
        at = end = start + HEADER_BYTES + len(payload)
        records.append(SpooledRecord(payload, base + end))
    return ParsedSegment(records, base + end, n_damaged)


def is_torn_tail(data: bytes) -> bool:
    """Whether `data` is how a record begins whose rest was never written."""
    if len(data) < HEADER_BYTES:
        return MARKER.startswith(data[: len(MARKER)])
    marker, length, _ = _HEADER.unpack_from(data)
    return bool(marker == MARKER and HEADER_BYTES + length > len(data))


def _record_at(data: bytes, start: int) -> bytes | None:
    """The payload of the record there; None where it is not whole."""
    if start + HEADER_BYTES > len(data):
        return None
    _, length, checksum = _HEADER.unpack_from(data, start)
    first = start + HEADER_BYTES
    if first + length > len(data):
        return None
    payload = data[first : first + length]
    return payload if _checksum(payload) == checksum else None


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))
