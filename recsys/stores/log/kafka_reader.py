"""Reading partitions of the topic from any offset, ahead of what is asked for.

One consumer without a group: who has read what is the followers' to keep, not the broker's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from recsys.data_settings import KafkaSettings
from recsys.errors import StoreError
from recsys.stores.log.event_log import MAX_READ_BYTES, LogRecord
from recsys.stores.log.kafka_topic import broker_sentence, client_options

_log = logging.getLogger(__name__)

_MAX_AHEAD_BYTES = 8 * 1024 * 1024
"""Read ahead of a partition at most about so much; then it pauses."""
_MAX_POLL_RECORDS = 5_000
_MAX_FETCH_BYTES = 16 * 1024 * 1024
_MAX_PARTITION_FETCH_BYTES = 2 * 1024 * 1024
_FETCH_WAIT_MS = 20
_POLL_TIMEOUT_MS = 200


class _Named(msgspec.Struct):
    """What a record's value says of its id."""

    event_id: str


_decoder = msgspec.json.Decoder(_Named)


@dataclass(slots=True)
class _Ahead:
    """What was read of one partition and not taken yet."""

    next_offset: int
    """The offset to be asked for next, if its reader goes on."""
    records: deque[LogRecord] = field(default_factory=deque)
    n_bytes: int = 0

    def holds(self, limit: int) -> bool:
        """Whether one read needs no more."""
        return len(self.records) >= limit or self.n_bytes >= MAX_READ_BYTES

    def take(self, limit: int) -> list[LogRecord]:
        """What one read hands out: at least one record, if there is any."""
        taken: list[LogRecord] = []
        n_bytes = 0
        while self.records and len(taken) < limit:
            n_bytes += len(self.records[0].value)
            if taken and n_bytes > MAX_READ_BYTES:
                break
            taken.append(self.records.popleft())
            self.n_bytes -= len(taken[-1].value)
        if taken:
            self.next_offset = taken[-1].offset + 1
        return taken


class KafkaReader:
    """The consumer of one log object; its caller sees to it that one thread uses it.

    Args:
        settings: of the broker.
        timeout_s: a read without an answer fails after this time.
    """

    def __init__(self, settings: KafkaSettings, timeout_s: float) -> None:
        from kafka import KafkaConsumer

        self._settings = settings
        self._timeout_s = timeout_s
        self._ahead: dict[Any, _Ahead] = {}
        options = client_options(settings)
        self._consumer: Any = KafkaConsumer(
            **options,
            connections_max_idle_ms=max(540_000, 2 * options["request_timeout_ms"]),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            fetch_max_bytes=_MAX_FETCH_BYTES,
            max_partition_fetch_bytes=_MAX_PARTITION_FETCH_BYTES,
            max_poll_records=_MAX_POLL_RECORDS,
            metrics_enabled=False,
        )

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At most `limit` records from `offset` on, and at most `MAX_READ_BYTES` of them."""
        place = self._place(partition)
        ahead = self._ahead.get(place)
        if ahead is None or ahead.next_offset != offset:
            ahead = self._seek(place, offset)
        if not ahead.holds(limit):
            self._fill(place, limit)
        return ahead.take(limit)

    def begin_offsets(self, n_partitions: int) -> dict[int, int]:
        """The oldest kept offset of every partition."""
        places = [self._place(partition) for partition in range(n_partitions)]
        found = self._consumer.beginning_offsets(places, timeout_ms=self._timeout_ms)
        return {place.partition: found[place] for place in places}

    def end_offsets(self, n_partitions: int) -> dict[int, int]:
        """The next offset of every partition."""
        places = [self._place(partition) for partition in range(n_partitions)]
        found = self._consumer.end_offsets(places, timeout_ms=self._timeout_ms)
        return {place.partition: found[place] for place in places}

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    @property
    def _timeout_ms(self) -> int:
        return max(1, int(self._timeout_s * 1000))

    def _place(self, partition: int) -> Any:
        from kafka import TopicPartition

        return TopicPartition(self._settings.topic, partition)

    def _seek(self, place: Any, offset: int) -> _Ahead:
        ahead = self._ahead[place] = _Ahead(offset)
        self._consumer.assign(list(self._ahead))
        self._consumer.seek(place, offset)
        self._consumer.resume(place)
        return ahead

    def _fill(self, place: Any, limit: int) -> None:
        """Read on until there is enough for one read, or nothing more."""
        ahead = self._ahead[place]
        end = self._consumer.end_offsets([place], timeout_ms=self._timeout_ms)[place]
        give_up_at_s = time.monotonic() + self._timeout_s
        while not ahead.holds(limit) and self._position(place) < end:
            self._balance(place)
            if not self._poll(place) and time.monotonic() > give_up_at_s:
                if ahead.records:
                    return
                detail = f"no answer to a read from offset {self._position(place)}"
                raise StoreError(broker_sentence(self._settings, detail))

    def _position(self, place: Any) -> int:
        """Where the consumer goes on; past control records too, which are never handed out."""
        position: int = self._consumer.position(place, timeout_ms=self._timeout_ms)
        return position

    def _balance(self, wanted: Any) -> None:
        """Let partitions rest that nobody takes from."""
        for place, ahead in self._ahead.items():
            if place != wanted and ahead.n_bytes > _MAX_AHEAD_BYTES:
                self._consumer.pause(place)
            else:
                self._consumer.resume(place)

    def _poll(self, wanted: Any) -> bool:
        from kafka.errors import OffsetOutOfRangeError

        try:
            polled = self._consumer.poll(timeout_ms=_POLL_TIMEOUT_MS)
        except OffsetOutOfRangeError as error:
            for place in error.args[0] if error.args else [wanted]:
                self._skip_gap(place)
            return False
        for place, found in polled.items():
            ahead = self._ahead.get(place)
            if ahead is not None:
                ahead.records.extend([_log_record(record) for record in found])
                ahead.n_bytes += sum(len(record.value or b"") for record in found)
        return bool(polled)

    def _skip_gap(self, place: Any) -> None:
        """Go on at the oldest kept record; past the end there is nothing to go on with."""
        begin = self._consumer.beginning_offsets([place], timeout_ms=self._timeout_ms)[place]
        position = self._position(place)
        if position < begin:
            _log.error(
                f"topic {place.topic}, partition {place.partition}: offsets {position} to"
                f" {begin - 1} are gone from the broker; reading goes on at {begin}"
            )
            self._consumer.seek(place, begin)
        else:
            del self._ahead[place]
            self._consumer.assign(list(self._ahead))


def _log_record(record: Any) -> LogRecord:
    value: bytes = record.value or b""
    try:
        event_id = _decoder.decode(value).event_id
    except msgspec.MsgspecError:
        # Not an event of ours: it has a place in the log all the same.
        event_id = f"{record.partition}-{record.offset}"
    return LogRecord(record.partition, record.offset, event_id, value)
