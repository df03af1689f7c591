"""The spool: order, durability of what it acknowledged, damage and bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import StoreError
from recsys.stores.spool.spool import Spool
from recsys.stores.spool.spool_segment import HEADER_BYTES, MARKER, frame_records, parse_segment
from tests.spooled_payloads import MIB, drain, numbers, payloads, segments


def test_payloads_come_back_in_order_over_many_files(tmp_path: Path) -> None:
    """The oldest first, whatever the sizes of what is written and read."""
    spool = Spool(tmp_path, MIB, segment_bytes=400)
    for start in range(0, 60, 6):
        spool.append(payloads(start, 6))
    assert len(segments(tmp_path)) > 5
    assert (spool.n_records, spool.n_bytes > 60 * 40) == (60, True)
    assert drain(spool) == list(range(60))
    assert (spool.n_records, spool.n_bytes, segments(tmp_path)) == (0, 0, [])
    spool.append(payloads(60, 1))
    assert drain(spool) == [60]
    spool.close()


def test_what_was_peeked_stays_until_it_is_passed_over(tmp_path: Path) -> None:
    """A process that dies in between shows it again; one that passed it over does not."""
    spool = Spool(tmp_path, MIB)
    spool.append(payloads(0, 10))
    assert numbers(spool.peek(4)) == numbers(spool.peek(4)) == [0, 1, 2, 3]
    spool.advance(3)
    spool.append(payloads(10, 2))
    spool.close()
    again = Spool(tmp_path, MIB)
    assert again.n_records == 9
    assert drain(again) == list(range(3, 12))
    again.close()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.lists(st.binary(max_size=60), min_size=1, max_size=6),
            st.integers(min_value=0, max_value=9),
            st.just("reopen"),
        ),
        max_size=25,
    )
)
def test_the_spool_is_a_queue_whatever_happens_between(steps: list[object]) -> None:
    """Appends, reads and restarts in any order: what comes out is what went in."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), MIB, segment_bytes=150)
        expected: list[bytes] = []
        for step in steps:
            if step == "reopen":
                spool.close()
                spool = Spool(Path(folder), MIB, segment_bytes=150)
            elif isinstance(step, int):
                found = spool.peek(step)
                assert found == expected[: len(found)]
                assert bool(found) == bool(expected and step)
                if found:
                    spool.advance(len(found))
                    del expected[: len(found)]
            elif isinstance(step, list):
                spool.append(step)
                expected += step
            assert spool.n_records == len(expected)
        spool.close()


def test_a_full_spool_refuses_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    """All of a batch or nothing of it; the message says the bound and the mend."""
    spool = Spool(tmp_path, 1000, segment_bytes=300)
    spool.append(payloads(0, 15))
    with pytest.raises(StoreError, match=r"is full with 15 events in 780 bytes.*allows 1000"):
        spool.append(payloads(15, 10))
    assert spool.n_records == 15
    assert drain(spool) == list(range(15))
    spool.append(payloads(15, 10))
    assert drain(spool) == list(range(15, 25))
    spool.close()


_FULL_DISK = """
import resource, sys
from pathlib import Path
from recsys.errors import StoreError
from recsys.stores.spool.spool import Spool

spool = Spool(Path(sys.argv[1]), 1 << 20)
spool.append([b"a" * 1000, b"b" * 1000])
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
for _ in range(3):
    try:
        spool.append([b"c" * 1000])
    except StoreError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append([b"d" * 1000])
print(spool.n_records, [payload[:1] for payload in spool.peek(9)])
"""


def test_a_full_disk_stores_nothing_and_mends_itself(tmp_path: Path) -> None:
    """The system refuses the write half way: no part of it stays, and with room it goes on."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *refusals, last = done.stdout.splitlines()
    assert len(refusals) == 3
    assert all("the disk is full" in line for line in refusals)
    assert last == "3 [b'a', b'b', b'd']"


def test_a_torn_tail_is_cut_and_what_stands_before_it_kept(tmp_path: Path) -> None:
    """A write that a crash cut short was never acknowledged; it is no damage."""
    for n_left in range(1, 40 + HEADER_BYTES):
        folder = tmp_path / str(n_left)
        spool = Spool(folder, MIB)
        spool.append(payloads(0, 3))
        spool.close()
        with segments(folder)[0].open("ab") as file:
            file.write(frame_records(payloads(3, 1))[:n_left])
        again = Spool(folder, MIB)
        assert drain(again) == [0, 1, 2]
        assert again.n_corrupt == 0
        again.close()


@pytest.mark.parametrize("at", [0, 5, 9, 30, 52 * 4 + 2, 52 * 9 + 51])
def test_damage_is_set_aside_and_passed_over(tmp_path: Path, at: int) -> None:
    """A flipped bit costs the one record it is in; the file is kept under another name."""
    spool = Spool(tmp_path, MIB)
    spool.append(payloads(0, 10))
    spool.close()
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))
    again = Spool(tmp_path, MIB)
    lost = at // 52
    assert drain(again) == [number for number in range(10) if number != lost]
    assert again.n_corrupt == 1
    (aside,) = tmp_path.glob("*.corrupt-*")
    assert aside.read_bytes() == bytes(data)
    again.append(payloads(10, 1))
    assert drain(again) == [10]
    again.close()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=30), max_size=8), st.data())
def test_no_byte_can_be_changed_without_notice(stored: list[bytes], data: st.DataObject) -> None:
    """What is read from a damaged file is some of what was written, in order, and nothing else."""
    whole = frame_records(stored)
    assert [record.payload for record in parse_segment(whole, 0).records] == stored
    if not whole:
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
    found = [record.payload for record in parse_segment(damaged, 0).records]
    assert len(found) >= len(stored) - 1
    rest = iter(stored)
    assert all(payload in rest for payload in found)


def test_a_payload_that_looks_like_a_record_is_only_a_payload() -> None:
    """The marker inside a payload is no beginning of anything while its record is whole."""
    tricky = [frame_records([b"inner"]), MARKER * 3, b""]
    parsed = parse_segment(frame_records(tricky), 0)
    assert [record.payload for record in parsed.records] == tricky
    assert parsed.n_damaged_bytes == 0


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    """A second owner is refused while the first one lives."""
    spool = Spool(tmp_path / "a", MIB)
    with pytest.raises(StoreError, match="belongs to another process"):
        Spool(tmp_path / "a", MIB)
    spool.close()
    Spool(tmp_path / "a", MIB).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be used"):
        Spool(tmp_path / "file" / "spool", MIB)


def test_the_counts_are_told_while_a_commit_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk does not hold up who only asks how much waits."""
    spool = Spool(tmp_path, MIB)
    spool.append(payloads(0, 2))
    is_committing, may_end = threading.Event(), threading.Event()

    def commit(descriptor: int) -> None:
        is_committing.set()
        assert may_end.wait(20)

    monkeypatch.setattr(os, "fdatasync", commit)
    writing = threading.Thread(target=spool.append, args=(payloads(2, 3),))
    writing.start()
    assert is_committing.wait(20)
    told: list[tuple[int, int, int]] = []
    asking = threading.Thread(
        target=lambda: told.append((spool.n_records, spool.n_bytes, spool.n_corrupt))
    )
    asking.start()
    asking.join(10)
    assert told == [(2, 104, 0)]
    may_end.set()
    writing.join(20)
    assert (spool.n_records, spool.n_bytes) == (5, 260)
    spool.close()
