"""The event log: partitions of records in order of arrival, durable before `append` returns.

The protocol, and the embedded log: one SQLite file. Knows nothing of what events mean.
`serve_app.log_writer` writes the events, `train_app.forgetting` the `forgotten` records and voids;
`train_app.lake.upkeep.lake_upkeep` trims.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import xxhash

from recsys.errors import ConfigError, DataError, StoreError
from recsys.events import Event, encode_event, event_key
from recsys.stores.log import log_tables
from recsys.stores.log.log_file import LogFile
from recsys.stores.log.log_tables import LAYOUT, OFFSET_BITS, pack, unpack
from recsys.stores.log.log_upkeep import PIECE_RECORDS, trim_piece, void_piece
from recsys.stores.sqlite_file import DamagedFile, store_errors, transaction

MAX_PARTITIONS = 4096
MAX_RECORD_BYTES = 900_000
"""A broker's own limit is 1 MiB for a record with its key and frame."""
MAX_READ_BYTES = 8 * 1024 * 1024
"""The values of one read are not larger together, except for a single one."""


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where a record stands: offsets of a partition are contiguous."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record as a follower reads it; `value` is the event's JSON."""

    partition: int
    offset: int
    event_id: str
    value: bytes


class PartlyStored(StoreError):
    """Some events of an append may be in the log and some may not.

    Args:
        unstored: the events without a receipt, in order; they may be appended again, and a follower
            that meets one of them twice counts it once.
    """

    def __init__(self, detail: str, unstored: Sequence[Event]) -> None:
        super().__init__(detail)
        self.unstored = list(unstored)


class EventLog(Protocol):
    """The one log, whatever keeps it."""

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """Store all events; durable on return, in order for each key.

        The embedded log stores an event id once and answers its old position when it comes again;
        Kafka may store it twice, so a follower counts an id once.

        Raises:
            DataError: an event is too large; nothing was stored.
            StoreError: nothing was stored, or, of Kafka, perhaps some (`PartlyStored`).
        """

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At most `limit` records of one partition from `offset` on, in order.

        Fewer may be answered than there are (`MAX_READ_BYTES`), but none only where none is new.
        Where older records are gone the first one kept is answered: its offset is higher than
        asked for, and the caller counts the gap.
        """

    def begin_offsets(self) -> dict[int, int]:
        """The oldest kept offset of every partition."""

    def end_offsets(self) -> dict[int, int]:
        """The next offset of every partition."""

    def close(self) -> None:
        """Give back what is held; the log cannot be used afterwards."""


def partition_of(key: str, n_partitions: int) -> int:
    """The embedded log's partition of a key (a user id, or an item id of a catalogue change)."""
    return xxhash.xxh64_intdigest(key.encode()) % n_partitions


def encode_record(event: Event) -> bytes:
    """The event as a record's value.

    Raises:
        DataError: it is larger than a record may be.
    """
    value = encode_event(event)
    if len(value) > MAX_RECORD_BYTES:
        raise DataError(
            f"event {event.event_id} has {len(value)} bytes as JSON, expected at most"
            f" {MAX_RECORD_BYTES}; say less in one event"
        )
    return value


class SqliteEventLog:
    """The embedded log: one SQLite file that several processes and threads may share.

    Args:
        path: the file; made where missing.
        n_partitions: fixed by the first use of the file.
        sets_aside: a damaged file is renamed to `NAME.corrupt-TIME` and a fresh log begun, at
            offsets past the old ones. For the log's writer; others are told about the damage.

    Raises:
        ConfigError: the file has another number of partitions.
        StoreError: the file cannot be opened or is no event log.
    """

    def __init__(self, path: Path, n_partitions: int, *, sets_aside: bool = False) -> None:
        if not 1 <= n_partitions <= MAX_PARTITIONS:
            raise ConfigError(
                f"events.n_partitions is {n_partitions}, expected 1 to {MAX_PARTITIONS}"
            )
        self.path = path
        self.n_partitions = n_partitions
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._file = LogFile(path, n_partitions, sets_aside=sets_aside)

    @property
    def n_set_aside(self) -> int:
        """Damaged files that this object has renamed."""
        return self._file.n_set_aside

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """Store all events or none, in one transaction; durable on return."""
        encoded = [
            (
                event.event_id,
                partition_of(event_key(event), self.n_partitions),
                encode_record(event),
            )
            for event in events
        ]
        if not encoded:
            return []
        with self._write_lock:
            try:
                positions = self._store(encoded)
            except DamagedFile as error:
                with self._read_lock:
                    self._file.begin_anew(error)
            except StoreError:
                if not self._file.is_replaced:
                    raise
            else:
                if not self._file.is_replaced:
                    return positions
            # Another process set the file aside: what went into it is out of every reader's sight.
            with self._read_lock:
                self._file.follow_replacement()
            return self._store(encoded)

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At most `limit` records of one partition from `offset` on, in order."""
        with self._reading() as reader:
            rows = log_tables.read_rows(
                reader, partition, offset, 1 << OFFSET_BITS, limit, MAX_READ_BYTES
            )
        first = pack(partition, 0)
        return [
            LogRecord(partition, position - first, event_id, value)
            for position, event_id, value in rows
        ]

    def begin_offsets(self) -> dict[int, int]:
        """The oldest kept offset of every partition."""
        with self._reading() as reader:
            return log_tables.begin_offsets(reader)

    def end_offsets(self) -> dict[int, int]:
        """The next offset of every partition."""
        with self._reading() as reader:
            return log_tables.end_offsets(reader)

    def trim(self, partition: int, before_offset: int) -> int:
        """Remove a partition's records below an offset; answers how many there were."""
        n_removed = 0
        while True:
            with self._writing() as writer:
                n = trim_piece(writer, partition, before_offset)
            n_removed += n
            if n < PIECE_RECORDS:
                return n_removed

    def void_user(self, user_id: str, before: Mapping[int, int]) -> int:
        """Empty what the log holds of a user below these offsets; answers how many records.

        The records keep offset and event id, so that nothing of them is taken for new; their old
        bytes are overwritten on the disk.
        """
        partition = partition_of(user_id, self.n_partitions)
        stop = before.get(partition, 0)
        n_voided = 0
        start: int | None = 0
        while start is not None:
            with self._writing() as writer:
                n, start = void_piece(writer, user_id, partition, start, stop)
            n_voided += n
        with self._writing() as writer:
            # The write-ahead log keeps old pages until it is folded back.
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return n_voided

    def close(self) -> None:
        """Give the file back; the log cannot be used afterwards."""
        with self._write_lock, self._read_lock:
            self._file.close()

    def _store(self, encoded: Sequence[tuple[str, int, bytes]]) -> list[LogPosition]:
        writer = self._file.writer
        with store_errors(LAYOUT, self.path), transaction(writer):
            ids = [event_id for event_id, _, _ in encoded]
            known = log_tables.known_positions(writer, ids)
            ends = log_tables.end_offsets(writer)
            fresh: list[tuple[int, str, bytes]] = []
            for event_id, partition, value in encoded:
                if event_id not in known:
                    position = known[event_id] = pack(partition, ends[partition])
                    fresh.append((position, event_id, value))
                    ends[partition] += 1
            self._file.reserved.cover(ends)
            log_tables.insert_records(writer, fresh, ends)
        return [LogPosition(*unpack(known[event_id])) for event_id in ids]

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection, None, None]:
        if self._file.is_replaced:
            with self._write_lock, self._read_lock:
                self._file.follow_replacement()
        with self._read_lock, store_errors(LAYOUT, self.path):
            yield self._file.reader

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection, None, None]:
        with self._write_lock:
            if self._file.is_replaced:
                with self._read_lock:
                    self._file.follow_replacement()
            with store_errors(LAYOUT, self.path):
                yield self._file.writer
