"""Frames of a stage link: what travels, byte by byte. Knows nothing of sockets.

A frame is a header, a description (MessagePack) and the bytes of the arrays, each padded so that
an array can be read where it was received.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import msgspec
import numpy as np

from recsys.types import Batch

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"FWLK"
VERSION = 1
HEADER = struct.Struct("<4sBBHIIIIII")
"""Magic, version, kind, reserved; call id, milliseconds left, description and body bytes,
checksum, reserved."""
_CHECKED = 24
"""The bytes of a header before its checksum."""
_ALIGNMENT = 16
MAX_FRAME_BYTES = 256 * 1024 * 1024
_NUMBERS = frozenset("biuf")


class FrameError(ValueError):
    """Bytes that are no frame: the connection they came from cannot be used any more."""


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1
    CALL = 2
    ANSWER = 3
    MISS = 4
    """The replica does not hold the bundle."""
    ERROR = 5
    PING = 6
    PONG = 7
    LEAVING = 8
    """The replica stops: no new calls, please."""
    CANCEL = 9
    """Nobody waits for this call any more."""


class ArrayNote(msgspec.Struct, frozen=True, array_like=True):
    """One array of a body."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Note(msgspec.Struct, frozen=True, array_like=True):
    """The description of a call or of its answer."""

    method: str
    bundle_id: str
    arrays: tuple[ArrayNote, ...] = ()
    reason: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame; the parts are views of the buffer it was received into."""

    kind: Kind
    call_id: int
    time_left_ms: int
    description: memoryview
    body: memoryview


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part of a frame that was not received whole yet."""

    kind: Kind
    call_id: int
    time_left_ms: int
    description_bytes: int
    body_bytes: int
    checksum: int

    @property
    def body_begin(self) -> int:
        """Where the body begins, from the beginning of the frame."""
        return HEADER.size + self.description_bytes + -self.description_bytes % _ALIGNMENT

    @property
    def frame_bytes(self) -> int:
        """The whole frame, the header included."""
        return self.body_begin + self.body_bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Note).decode


def pack_frame(
    kind: Kind,
    call_id: int = 0,
    description: bytes = b"",
    body: Sequence[Buffer] = (),
    time_left_ms: int = 0,
) -> list[Buffer]:
    """The buffers of one frame, in order; none of the body is copied."""
    padded = description + bytes(-len(description) % _ALIGNMENT)
    n_body = sum(len(part) for part in body)
    fields = (MAGIC, VERSION, kind, 0, call_id, time_left_ms, len(description), n_body)
    head = HEADER.pack(*fields, 0, 0)
    checksum = _checksum(memoryview(head)[:_CHECKED], padded, *body)
    return [HEADER.pack(*fields, checksum, 0), padded, *body]


def pack_note(
    kind: Kind, call_id: int, note: Note, batch: Batch | None = None, time_left_ms: int = 0
) -> list[Buffer]:
    """The buffers of a call or an answer; the arrays are not copied unless they are not in C order.

    Nobody may change the arrays from now on: a loop may send them later from where they lie.

    Args:
        note: without its arrays, which are the batch's.

    Raises:
        ValueError: an array holds no numbers, or the frame would be too large for its receiver.
    """
    if batch is None:
        return pack_frame(kind, call_id, _encode(note), (), time_left_ms)
    for name, array in batch.items():
        if array.dtype.kind not in _NUMBERS:
            raise ValueError(f"array {name} of {note.method} is {array.dtype}, expected numbers")
    n_bytes = sum(array.nbytes for array in batch.values())
    if n_bytes > MAX_FRAME_BYTES // 2:
        raise ValueError(
            f"the arrays of {note.method} have {n_bytes} bytes, expected {MAX_FRAME_BYTES // 2}"
            " at most; use smaller batches (serve.max_batch)"
        )
    arrays = {name: np.ascontiguousarray(array) for name, array in batch.items()}
    notes = tuple(
        # The shape is the caller's: `ascontiguousarray` makes a number an array of one.
        ArrayNote(name, array.dtype.str, batch[name].shape)
        for name, array in arrays.items()
    )
    body: list[Buffer] = []
    for array in arrays.values():
        if array.nbytes:
            body.append(array.data.cast("B"))
        if array.nbytes % _ALIGNMENT:
            body.append(bytes(-array.nbytes % _ALIGNMENT))
    described = Note(note.method, note.bundle_id, notes, note.reason)
    return pack_frame(kind, call_id, _encode(described), body, time_left_ms)


def read_header(data: Buffer, max_bytes: int = MAX_FRAME_BYTES) -> Header:
    """The header at the beginning of `data`.

    Raises:
        FrameError: it is none, of another version, or of a frame over `max_bytes`.
    """
    magic, version, kind, _, call_id, left_ms, n_described, n_body, checksum, _ = (
        HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise FrameError(f"a frame begins with {bytes(magic)!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise FrameError(f"a frame has version {version}, expected {VERSION}; run one release")
    if kind not in Kind._value2member_map_:
        raise FrameError(f"a frame has kind {kind}, expected 1 to {max(Kind)}")
    header = Header(Kind(kind), call_id, left_ms, n_described, n_body, checksum)
    if header.frame_bytes > max_bytes:
        raise FrameError(f"a frame has {header.frame_bytes} bytes, expected {max_bytes} at most")
    return header


def open_frame(header: Header, data: memoryview) -> Frame:
    """A frame received whole.

    Raises:
        FrameError: it does not have the checksum it was sent with.
    """
    if _checksum(data[:_CHECKED], data[HEADER.size : header.frame_bytes]) != header.checksum:
        raise FrameError(f"a {header.kind.name.lower()} frame was changed on its way")
    return Frame(
        header.kind,
        header.call_id,
        header.time_left_ms,
        data[HEADER.size : HEADER.size + header.description_bytes],
        data[header.body_begin : header.frame_bytes],
    )


def read_note(frame: Frame) -> Note:
    """The description of a frame.

    Raises:
        FrameError: it is none.
    """
    try:
        return _decode(frame.description)
    except msgspec.MsgspecError as error:
        raise FrameError(f"a {frame.kind.name.lower()} frame describes nothing: {error}") from error


def read_batch(note: Note, body: memoryview) -> Batch:
    """The arrays of a frame where they lie, writable.

    Raises:
        FrameError: the body does not hold what is described.
    """
    batch: Batch = {}
    begin = 0
    for array in note.arrays:
        batch[array.name], begin = _read_array(array, body, begin)
    if begin != len(body):
        raise FrameError(f"arrays of {begin} bytes are described, but {len(body)} were received")
    return batch


def _read_array(array: ArrayNote, body: memoryview, begin: int) -> tuple[np.ndarray, int]:
    try:
        dtype = np.dtype(array.dtype)
    except TypeError as error:
        raise FrameError(f"array {array.name} has no numpy type: {array.dtype!r}") from error
    if dtype.kind not in _NUMBERS or min(array.shape, default=0) < 0:
        raise FrameError(f"array {array.name} is {array.dtype} {array.shape}, expected numbers")
    n_entries = math.prod(array.shape)
    end = begin + n_entries * dtype.itemsize
    if end > len(body):
        raise FrameError(f"array {array.name} needs {end} bytes of a body of {len(body)}")
    found = np.frombuffer(body, dtype, n_entries, begin) if n_entries else np.empty(0, dtype)
    return found.reshape(array.shape), end + -(end - begin) % _ALIGNMENT


def _checksum(*parts: Buffer) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum
