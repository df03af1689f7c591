"""The records that evidence is made of, what of the store they depend on, and what they change.

Knows no store and no rule; what a batch means is `evidence_fold`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from recsys.events import (
    MAX_FUTURE_MS,
    MIN_TIMESTAMP_MS,
    CatalogueChange,
    Engagement,
    Forgotten,
    Outcome,
)
from recsys.stores.log.event_log import LogRecord
from train_app.following.evidence.evidence_delta import EvidenceDelta
from train_app.following.evidence.user_trail import Trail

_IGNORED_PREFIXES = (b'{"type":"catalogue"', b'{"type":"void"')


class CountedItem(msgspec.Struct, frozen=True, gc=False):
    """One position of a served slate, as far as it is counted."""

    item_id: str


class CountedImpression(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="impression",
    rename={"timestamp_ms": "timestamp"},
    gc=False,
):
    """One served slate, as far as it is counted.

    An impression is some kilobytes of signals, candidates and history for those who train; to
    read them costs more than the rest of the record. What is not read here is not checked either:
    that is the lake's part, which quarantines.
    """

    event_id: str
    request_id: str
    user_id: str
    timestamp_ms: int
    bundle_id: str
    variant: str
    slate: tuple[CountedItem, ...]
    history_version: int = 0
    context: dict[str, str] = {}
    coverage: float = 1.0
    degraded: tuple[str, ...] = ()
    stage_ms: dict[str, float] = {}
    experiment: str | None = None
    diversity: float | None = None
    novelty: float | None = None


class CountedShadow(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="shadow",
    rename={"timestamp_ms": "timestamp"},
    gc=False,
):
    """A shadow's answer beside the live one, as far as it is counted."""

    event_id: str
    user_id: str
    timestamp_ms: int
    shadow_id: str
    status: int
    reason: str
    live_items: tuple[str, ...]
    items: tuple[str, ...]
    live_ms: float
    shadow_ms: float
    degraded: tuple[str, ...] = ()


Counted: TypeAlias = Engagement | CountedImpression | Outcome | CountedShadow | Forgotten

_decoder: msgspec.json.Decoder[Counted | CatalogueChange] = msgspec.json.Decoder(
    Counted | CatalogueChange
)


@dataclass(frozen=True, slots=True)
class CountedRecord:
    """One record that evidence is made of."""

    event: Counted
    user_hash: int
    event_hash: int


@dataclass(frozen=True, slots=True)
class DecodedEvidence:
    """A batch of records of one partition, in order."""

    records: tuple[CountedRecord, ...]
    bad: tuple[tuple[LogRecord, str], ...]
    """Records that are no event, with the reason."""

    @property
    def user_hashes(self) -> list[int]:
        """The users whose trails this batch changes."""
        return list(dict.fromkeys(record.user_hash for record in self.records))

    @property
    def event_hashes(self) -> list[int]:
        """The events of this batch."""
        return list(dict.fromkeys(record.event_hash for record in self.records))


@dataclass(frozen=True)
class StoredEvidence:
    """What is stored of a partition, as far as a batch depends on it."""

    watermark_ms: int = 0
    trails: Mapping[int, Trail] = field(default_factory=dict)
    """By user hash; this is changed in place."""
    seen_ms: Mapping[int, int] = field(default_factory=dict)
    """The watermark when an event of this batch was counted before."""
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvidenceUpdate:
    """What a batch changes; all of it is stored in one transaction, or nothing."""

    watermark_ms: int
    delta: EvidenceDelta
    trails: Mapping[int, Trail]
    seen_ms: Mapping[int, int]
    """Events of this batch, to be known when they come again."""
    names: Sequence[tuple[str, str]]
    forgotten: frozenset[int]
    """Users whose rows are to be deleted before anything is added."""
    users_from_ms: int
    """Days of users before this are over."""
    n_repeated: int


def decode_evidence(records: Iterable[LogRecord], hashed: Callable[[str], int]) -> DecodedEvidence:
    """Read the records that matter; a record that is no event is set aside, never fatal."""
    counted: list[CountedRecord] = []
    bad: list[tuple[LogRecord, str]] = []
    for record in records:
        if record.value.startswith(_IGNORED_PREFIXES):
            continue
        try:
            event = _decoder.decode(record.value)
            _check_time(event)
        except (ValueError, RecursionError) as error:
            bad.append((record, str(error)))
            continue
        if not isinstance(event, CatalogueChange):
            counted.append(CountedRecord(event, hashed(event.user_id), hashed(event.event_id)))
    return DecodedEvidence(tuple(counted), tuple(bad))


def _check_time(event: Counted | CatalogueChange) -> None:
    if event.timestamp_ms < MIN_TIMESTAMP_MS:
        raise ValueError(f"timestamp {event.timestamp_ms} lies before 1990")
    if isinstance(event, Engagement) and event.timestamp_ms > event.received_at_ms + MAX_FUTURE_MS:
        raise ValueError(f"timestamp {event.timestamp_ms} lies in the future")
