"""How much of the log is read into what waits for the lake."""

from __future__ import annotations

from recsys.data_settings import LakeSettings
from recsys.stores.log.event_log import MAX_READ_BYTES, LogRecord
from tests.fakes_event_log import MemoryEventLog
from train_app.lake.archiving.log_reading import MAX_PENDING_BYTES, LogReading


class ShortReads(MemoryEventLog):
    """A log whose reads end early, as those of large records do; it grows with every one."""

    def __init__(self, n_partitions: int, max_bytes: int, *, grows: bool = False) -> None:
        super().__init__(n_partitions)
        self._max_bytes = max_bytes
        self._grows = grows
        self.n_reads = 0

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At least one record, and no more than the bytes allow."""
        self.n_reads += 1
        if self._grows:
            self.append_raw(partition, f"new-{self.n_reads}", b"{}")
        taken: list[LogRecord] = []
        for record in super().read(partition, offset, limit):
            if taken and sum(len(r.value) for r in (*taken, record)) > self._max_bytes:
                break
            taken.append(record)
        return taken


def a_log(log: ShortReads, sizes: list[int]) -> ShortReads:
    """Filled with records of these sizes, by turns in its partitions."""
    for n, size in enumerate(sizes):
        log.append_raw(n % len(log.end_offsets()), f"e{n}", b"." * size)
    return log


def a_reading(log: MemoryEventLog, commit_records: int) -> LogReading:
    """Of the whole log, from its beginning."""
    settings = LakeSettings(commit_records=commit_records)
    return LogReading(log, log.begin_offsets(), settings, "the lake", lambda: 0.0)


def test_short_reads_are_gone_on_with_until_nothing_is_new() -> None:
    """A read that answered fewer than it was asked for is not taken for the last."""
    log = a_log(ShortReads(3, 100), [60] * 40)
    reading = a_reading(log, 10_000)
    reading.read()
    assert reading.pending.ends() == log.end_offsets()
    assert reading.pending.n_records == 40


def test_what_arrives_while_reading_is_the_next_turns() -> None:
    """A log that never stands still does not hold the reader for ever."""
    log = a_log(ShortReads(2, 100, grows=True), [60] * 10)
    reading = a_reading(log, 1_000_000)
    reading.read()
    assert reading.pending.n_records >= 10
    assert log.n_reads < 30


def test_what_waits_never_has_more_bytes_than_the_bound() -> None:
    """Large records are committed early, and all of them come."""
    n_bytes = 800_000
    log = a_log(ShortReads(2, MAX_READ_BYTES), [n_bytes] * 100)
    reading = a_reading(log, 10_000)
    n_records = n_turns = 0
    while n_records < 100:
        reading.read()
        assert 0 < reading.pending.n_bytes <= MAX_PENDING_BYTES
        n_records += reading.pending.n_records
        n_turns += 1
        reading.committed()
    assert (n_records, n_turns) == (100, 3)
