"""An event log in memory: the second implementation of `EventLog`, for tests without a disk."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.events import Event, encode_event, event_key
from recsys.stores.log.event_log import LogPosition, LogRecord, partition_of


class MemoryEventLog:
    """Keeps records in lists, one per partition."""

    def __init__(self, n_partitions: int = 4) -> None:
        self._partitions: list[list[LogRecord]] = [[] for _ in range(n_partitions)]
        self._positions: dict[str, LogPosition] = {}

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """Store all events; a known event id is answered with its old position."""
        encoded = [encode_event(event) for event in events]
        for event, value in zip(events, encoded, strict=True):
            if event.event_id not in self._positions:
                self.append_raw(
                    partition_of(event_key(event), len(self._partitions)), event.event_id, value
                )
        return [self._positions[event.event_id] for event in events]

    def append_raw(self, partition: int, event_id: str, value: bytes) -> None:
        """Store bytes as they are, an event or not."""
        records = self._partitions[partition]
        self._positions[event_id] = LogPosition(partition, len(records))
        records.append(LogRecord(partition, len(records), event_id, value))

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At most `limit` records of one partition from `offset` on, in order."""
        return self._partitions[partition][offset : offset + limit]

    def begin_offsets(self) -> dict[int, int]:
        """The oldest kept offset of every partition."""
        return dict.fromkeys(range(len(self._partitions)), 0)

    def end_offsets(self) -> dict[int, int]:
        """The next offset of every partition."""
        return {index: len(records) for index, records in enumerate(self._partitions)}

    def close(self) -> None:
        """Nothing is held."""
