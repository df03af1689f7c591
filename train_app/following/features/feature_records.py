"""Reads the records of one partition that features are made of. Knows no store and no features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from recsys.events import (
    MAX_FUTURE_MS,
    MIN_TIMESTAMP_MS,
    CatalogueChange,
    Engagement,
    Forgotten,
    Impression,
    Outcome,
    ShadowAnswer,
    decode_event,
)
from recsys.stores.log.event_log import LogRecord

FeatureEvent: TypeAlias = Engagement | CatalogueChange | Forgotten

_IGNORED_PREFIXES = (
    b'{"type":"impression"',
    b'{"type":"outcome"',
    b'{"type":"shadow"',
    b'{"type":"void"',
)
"""Served slates are most of the log and change no feature; they are not worth decoding."""


@dataclass(frozen=True, slots=True)
class DecodedPart:
    """A run of records of one partition, reduced to what changes features; in log order."""

    partition: int
    next_offset: int
    events: tuple[FeatureEvent, ...] = ()
    bad: tuple[tuple[LogRecord, str], ...] = ()
    """Records that are no event, with the reason."""

    @property
    def user_ids(self) -> list[str]:
        """The users whose history these records touch."""
        users = (event.user_id for event in self.events if isinstance(event, Engagement))
        return list(dict.fromkeys(users))

    @property
    def event_ids(self) -> list[str]:
        """The ids of the events, in order."""
        return [event.event_id for event in self.events]


def decode_part(partition: int, next_offset: int, records: Iterable[LogRecord]) -> DecodedPart:
    """Read the records that matter; a record that is no event is set aside, never fatal.

    Args:
        next_offset: the offset after the last record.
    """
    events: list[FeatureEvent] = []
    bad: list[tuple[LogRecord, str]] = []
    for record in records:
        if record.value.startswith(_IGNORED_PREFIXES):
            continue
        try:
            event = decode_event(record.value)
        except (ValueError, RecursionError) as error:
            bad.append((record, str(error)))
            continue
        match event:
            case Impression() | Outcome() | ShadowAnswer():
                pass
            case Engagement() if not _is_possible(event):
                bad.append((record, f"timestamp {event.timestamp_ms} is impossible"))
            case _:
                events.append(event)
    return DecodedPart(partition, next_offset, tuple(events), tuple(bad))


def _is_possible(event: Engagement) -> bool:
    return MIN_TIMESTAMP_MS <= event.timestamp_ms <= event.received_at_ms + MAX_FUTURE_MS
