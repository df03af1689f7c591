"""What one read of a partition hands out of what was read ahead."""

from __future__ import annotations

from recsys.stores.log.event_log import MAX_READ_BYTES, LogRecord
from recsys.stores.log.kafka_reader import _Ahead


def ahead_of(*sizes: int) -> _Ahead:
    """Records of these sizes, from offset 5 on."""
    ahead = _Ahead(5)
    ahead.records.extend(LogRecord(0, 5 + n, f"e{n}", b"." * size) for n, size in enumerate(sizes))
    ahead.n_bytes = sum(sizes)
    return ahead


def test_a_read_ends_at_its_limit() -> None:
    """The rest waits for the next one."""
    ahead = ahead_of(10, 20, 30)
    assert (ahead.holds(3), ahead.holds(4)) == (True, False)
    assert [record.offset for record in ahead.take(2)] == [5, 6]
    assert (ahead.next_offset, ahead.n_bytes) == (7, 30)
    assert [record.offset for record in ahead.take(2)] == [7]
    assert ahead.take(2) == []
    assert (ahead.next_offset, ahead.n_bytes) == (8, 0)


def test_a_read_ends_at_its_bytes() -> None:
    """With enough of them nothing more is fetched, however few records they are."""
    half = MAX_READ_BYTES // 2
    ahead = ahead_of(half, half, 1)
    assert ahead.holds(1_000)
    assert [record.offset for record in ahead.take(1_000)] == [5, 6]
    assert not ahead.holds(1_000)
    assert [record.offset for record in ahead.take(1_000)] == [7]


def test_a_read_hands_out_one_record_of_any_size() -> None:
    """Otherwise its reader would never come past it."""
    ahead = ahead_of(MAX_READ_BYTES + 1, 1)
    assert ahead.holds(2)
    assert [record.offset for record in ahead.take(2)] == [5]
    assert [record.offset for record in ahead.take(2)] == [6]
