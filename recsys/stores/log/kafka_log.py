"""The event log in a topic of Kafka: the key decides the partition as in every other client.

Written by `serve_app.log_writer`; a `forgotten` record by `train_app.forgetting`. A producer that
lost a write is thrown away: what it still holds must not reach the broker behind later events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from recsys.data_settings import EventSettings
from recsys.errors import StoreError
from recsys.events import Event, event_key
from recsys.stores.log.event_log import LogPosition, LogRecord, PartlyStored, encode_record
from recsys.stores.log.kafka_reader import KafkaReader
from recsys.stores.log.kafka_topic import (
    broker_sentence,
    client_options,
    ensure_topic,
    kafka_errors,
)

_log = logging.getLogger(__name__)

_BATCH_BYTES = 65_536
_CLOSE_TIMEOUT_S = 1.0
_GRACE_S = 0.25
"""The client itself gives up at the time-out; only if it does not, is it given up."""


class KafkaEventLog:
    """The log in a topic; nothing is asked of the broker before the first use.

    Args:
        settings: the branch `events`.

    Raises:
        ConfigError: a user name without a password in the environment.
    """

    def __init__(self, settings: EventSettings) -> None:
        self.n_partitions = settings.n_partitions
        self._settings = settings
        self._timeout_s = settings.kafka.delivery_timeout_s
        self._append_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._producer: Any = None
        self._reader: KafkaReader | None = None
        self._has_topic = False
        self._is_closed = False
        client_options(settings.kafka)

    def check(self, timeout_s: float | None = None) -> None:
        """Return when the broker answers and has the topic.

        Raises:
            ConfigError: the topic has another number of partitions, or cannot be made.
            StoreError: no broker answers in time.
        """
        if self._is_closed:
            raise StoreError("the event log is closed; open it again")
        if not self._has_topic:
            ensure_topic(self._settings, min(timeout_s or self._timeout_s, self._timeout_s))
            self._has_topic = True

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """Return when the broker has acknowledged all events, in order for each key.

        Raises:
            DataError: an event is too large; nothing was sent.
            StoreError: no broker answers; nothing was sent.
            PartlyStored: some of them have no acknowledgement, and may be there all the same.
        """
        encoded = [(event_key(event).encode(), encode_record(event)) for event in events]
        if not encoded:
            return []
        with self._append_lock:
            try:
                futures = self._send(encoded)
            except StoreError:
                self._discard_producer()
                raise
            positions = [_position(future) for future in futures]
            missing = [n for n, position in enumerate(positions) if position is None]
            if missing or len(futures) < len(encoded):
                self._discard_producer()
                unsent = range(len(futures), len(encoded))
                unstored = [events[n] for n in (*missing, *unsent)]
                raise PartlyStored(self._why(futures, len(unstored), len(events)), unstored)
        return [position for position in positions if position is not None]

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """At most `limit` records of one partition from `offset` on, in order."""
        with self._reading() as reader:
            return reader.read(partition, offset, limit)

    def begin_offsets(self) -> dict[int, int]:
        """The oldest kept offset of every partition."""
        with self._reading() as reader:
            return reader.begin_offsets(self.n_partitions)

    def end_offsets(self) -> dict[int, int]:
        """The next offset of every partition."""
        with self._reading() as reader:
            return reader.end_offsets(self.n_partitions)

    def close(self) -> None:
        """Leave the broker; the log cannot be used afterwards, and what is under way fails."""
        self._is_closed = True
        producer = self._producer
        if producer is not None:
            producer._sender.force_close()
        for lock, discard in (
            (self._append_lock, self._discard_producer),
            (self._read_lock, self._discard_reader),
        ):
            if lock.acquire(timeout=_CLOSE_TIMEOUT_S):
                try:
                    discard()
                finally:
                    lock.release()

    def _send(self, encoded: Sequence[tuple[bytes, bytes]]) -> list[Any]:
        """A settled future per event; fewer where the client refused to take more."""
        from kafka.errors import KafkaError

        self.check()
        with kafka_errors(self._settings.kafka):
            if self._producer is None:
                self._producer = self._new_producer()
        futures: list[Any] = []
        give_up_at_s = time.monotonic() + self._timeout_s + _GRACE_S
        try:
            for key, value in encoded:
                futures.append(self._producer.send(self._settings.kafka.topic, value, key))
            for future in futures:
                if not future.is_done:
                    future.get(max(0.0, give_up_at_s - time.monotonic()))
        except KafkaError as error:
            _log.debug("a send was given up: %s", error)
        return futures

    def _why(self, futures: Sequence[Any], n_unstored: int, n_events: int) -> str:
        errors = [future.exception for future in futures if future.is_done and future.failed()]
        error = errors[0] if errors else f"no acknowledgement within {self._timeout_s:g} s"
        what = broker_sentence(self._settings.kafka, error)
        return (
            f"{what}; {n_unstored} of {n_events} events have an unknown outcome and may be sent"
            " again with the same event ids"
        )

    def _new_producer(self) -> Any:
        from kafka import KafkaProducer

        timeout_ms = int(self._timeout_s * 1000)
        options = client_options(self._settings.kafka)
        request_ms = options["request_timeout_ms"]
        return KafkaProducer(
            **options,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            batch_size=_BATCH_BYTES,
            linger_ms=0,
            max_block_ms=timeout_ms,
            delivery_timeout_ms=max(timeout_ms, request_ms),
            connections_max_idle_ms=max(540_000, 2 * request_ms),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def _discard_producer(self) -> None:
        """Leave nothing behind that could still be sent, and look for the topic again."""
        self._has_topic = False
        producer, self._producer = self._producer, None
        if producer is not None:
            # Its own close waits for what a hanging broker may never answer.
            sender = producer._sender
            sender.force_close()
            sender.join(_CLOSE_TIMEOUT_S)
            if not sender.is_alive():
                producer.close(timeout=0)

    @contextmanager
    def _reading(self) -> Generator[KafkaReader, None, None]:
        with self._read_lock, kafka_errors(self._settings.kafka):
            self.check()
            if self._reader is None:
                self._reader = KafkaReader(self._settings.kafka, self._timeout_s)
            try:
                yield self._reader
            except BaseException:
                # What it had read ahead may not fit to where it stands.
                self._discard_reader()
                raise

    def _discard_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def _position(future: Any) -> LogPosition | None:
    """Where the event stands; None where that is not known."""
    if not future.is_done or future.failed() or future.value.offset < 0:
        return None
    return LogPosition(future.value.partition, future.value.offset)
