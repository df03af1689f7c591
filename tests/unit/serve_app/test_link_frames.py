"""Frames: arrays travel unchanged whatever the reads bring, and damage is seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from recsys.types import Batch
from serve_app.links.frame_reader import FrameReader
from serve_app.links.frames import (
    HEADER,
    ArrayNote,
    Buffer,
    Frame,
    FrameError,
    Kind,
    Note,
    pack_frame,
    pack_note,
    read_batch,
    read_header,
    read_note,
)

CALL = Note("score", "b-1")
DTYPES = st.sampled_from(["<i4", "<i8", "<f4", "|b1", "<f8", "|u1"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays_of.arrays(
        dtype, arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    )
)
BATCHES = st.dictionaries(st.text(max_size=6), ARRAYS, max_size=4)


def bytes_of(*frames: list[Buffer]) -> bytes:
    """As they go over the wire."""
    return b"".join(itertools.chain(*frames))


def received(data: bytes, *sizes: int) -> list[Frame]:
    """What a reader makes of reads of these sizes, the last one repeated."""
    reader, frames, begin = FrameReader(), list[Frame](), 0
    reader.trust()
    for size in itertools.chain(sizes, itertools.repeat(sizes[-1])):
        space = reader.space()
        part = data[begin : begin + min(size, len(space))]
        if not part:
            return frames
        space[: len(part)] = part
        begin += len(part)
        frames += list(reader.took(len(part)))
    raise AssertionError("not reached")


def same(found: Batch, expected: Batch) -> bool:
    """Names, types, shapes and bytes."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )


@given(BATCHES, st.lists(st.integers(1, 90), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_arrays_travel_unchanged_however_the_bytes_come(batch: Batch, sizes: list[int]) -> None:
    """Several frames one after the other, cut anywhere."""
    data = bytes_of(
        pack_note(Kind.CALL, 7, CALL, batch, 250),
        pack_frame(Kind.PING, 8),
        pack_note(Kind.ANSWER, 9, CALL, batch),
    )
    call, ping, answer = received(data, *sizes)
    assert (call.kind, call.call_id, call.time_left_ms) == (Kind.CALL, 7, 250)
    assert (ping.kind, ping.call_id) == (Kind.PING, 8)
    for frame in (call, answer):
        note = read_note(frame)
        assert (note.method, note.bundle_id) == ("score", "b-1")
        assert same(read_batch(note, frame.body), batch)


def test_a_large_array_is_received_in_place_and_may_be_written_to() -> None:
    """More than one read brings; Torch asks for writable memory, numerics for aligned arrays."""
    batch = {"odd": np.arange(3, dtype=np.int8), "large": np.arange(100_000, dtype=np.float64)}
    data = bytes_of(
        pack_frame(Kind.PONG), pack_note(Kind.CALL, 1, CALL, batch), pack_frame(Kind.PING)
    )
    _, call, ping = received(data, 65_536)
    found = read_batch(read_note(call), call.body)
    assert same(found, batch)
    assert found["large"].flags.aligned
    found["large"][0] = 7.0
    assert ping.kind is Kind.PING


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_a_changed_byte_is_seen(data: st.DataObject) -> None:
    """Wherever it is but in what is reserved: the frame is refused, never read as another."""
    batch = {"rows": np.arange(6, dtype=np.int32).reshape(2, 3)}
    whole = bytearray(bytes_of(pack_note(Kind.CALL, 7, CALL, batch, 250)))
    place = data.draw(st.integers(0, len(whole) - 1).filter(lambda at: not 28 <= at < HEADER.size))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        frames = received(bytes(whole), 1000)
    except FrameError:
        return
    assert frames == []  # its length says that more is to come


def test_what_is_no_frame_is_said() -> None:
    """With what was expected instead."""
    good = bytes_of(pack_frame(Kind.PING))
    with pytest.raises(FrameError, match="begins with b'GET '"):
        received(b"GET / HTTP/1.1\r\nhost: somewhere\r\n\r\n", 100)
    with pytest.raises(FrameError, match="version 9, expected 1"):
        read_header(good[:4] + b"\x09" + good[5:])
    with pytest.raises(FrameError, match="kind 77"):
        read_header(good[:5] + b"\x4d" + good[6:])
    with pytest.raises(FrameError, match="expected 100 at most"):
        read_header(bytes_of(pack_frame(Kind.HELLO, description=bytes(200))), 100)


def test_a_description_that_does_not_fit_its_body_is_refused() -> None:
    """Nothing is read beyond what was received, and no objects are made."""
    (frame,) = received(bytes_of(pack_note(Kind.CALL, 1, CALL, {"k": np.zeros(4)})), 1000)
    note = read_note(frame)
    for body, reason in ((frame.body[:16], "of a body of 16"), (memoryview(bytes(64)), "32 bytes")):
        with pytest.raises(FrameError, match=reason):
            read_batch(note, body)
    (odd,) = received(bytes_of(pack_frame(Kind.CALL, 1, b"\xc1")), 1000)
    with pytest.raises(FrameError, match="describes nothing"):
        read_note(odd)


def test_what_cannot_travel_is_refused_where_it_is_packed() -> None:
    """Its receiver would have to cut the link, with everybody's calls on it."""
    for array in (np.zeros(2, "<U1"), np.asarray([None])):
        with pytest.raises(ValueError, match=r"array o of score is .*, expected numbers"):
            pack_note(Kind.CALL, 1, CALL, {"o": array})
    huge = np.broadcast_to(np.zeros(1), (2**25,))
    with pytest.raises(ValueError, match="use smaller batches"):
        pack_note(Kind.CALL, 1, CALL, {"o": huge})
    note = Note("score", "b-1", (ArrayNote("o", "<U1", (2,)),))
    with pytest.raises(FrameError, match="expected numbers"):
        read_batch(note, memoryview(bytes(16)))


def test_before_a_peer_is_trusted_only_greetings_are_taken() -> None:
    """Whatever length a header claims, no memory is held for it."""
    reader = FrameReader()
    data = bytes_of(pack_frame(Kind.CALL, 1, bytes(300)))
    space = reader.space()
    assert len(space) <= 256
    space[: HEADER.size] = data[: HEADER.size]
    with pytest.raises(FrameError, match="expected 256 at most"):
        list(reader.took(HEADER.size))


def test_a_frame_behind_the_one_that_brings_trust_is_read() -> None:
    """They may come in one read."""
    reader, found = FrameReader(), list[Kind]()
    data = bytes_of(pack_frame(Kind.HELLO, description=bytes(48)), pack_frame(Kind.PING))
    reader.space()[: len(data)] = data
    for frame in reader.took(len(data)):
        found.append(frame.kind)
        if frame.kind is Kind.HELLO:
            reader.trust()
    assert found == [Kind.HELLO, Kind.PING]
    large = bytes_of(pack_note(Kind.CALL, 1, CALL, {"k": np.zeros(1000)}))
    reader.space()[: len(large)] = large
    (frame,) = reader.took(len(large))
    assert frame.kind is Kind.CALL
