"""The events of the one log: their fields, limits and JSON form. Knows no store.

Every event is keyed by its user id, so that one user's events keep their order.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from recsys.random_ids import random_id

SCHEMA_VERSION = 1
MAX_ID_BYTES = 256
MAX_EVENTS_PER_REQUEST = 1000
MIN_TIMESTAMP_MS = 631_152_000_000
"""1990-01-01T00:00:00Z."""
MAX_FUTURE_MS = 3_600_000
"""A timestamp may be at most one hour ahead of the receiving clock."""

_WIRE_NAMES = {"timestamp_ms": "timestamp", "received_at_ms": "received_at"}
"""In JSON both are integers, milliseconds since 1970 in UTC."""


class Engagement(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="engagement",
    rename=_WIRE_NAMES,
):
    """A user's act on an item: click, play, like, purchase, dismiss."""

    event_id: str
    kind: str
    user_id: str
    item_id: str
    timestamp_ms: int
    received_at_ms: int
    origin: str
    """`api`, `import` or `simulation`."""
    request_id: str | None = None
    position: int | None = None
    value: float | None = None
    schema_version: int = SCHEMA_VERSION


class ShownItem(msgspec.Struct, frozen=True, kw_only=True):
    """One position of a served slate, with the signals the scorer saw."""

    item_id: str
    position: int
    score: float
    propensity: float
    source: str
    retrieval_score: float
    retrieval_rank: int


class UnshownItem(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was scored and not shown: a hard negative with its rank by score."""

    item_id: str
    score: float
    score_rank: int
    source: str
    retrieval_score: float
    retrieval_rank: int


class DroppedItem(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was retrieved and neither scored nor shown, drawn from all such."""

    item_id: str
    source: str
    retrieval_score: float
    retrieval_rank: int


class Impression(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="impression",
    rename=_WIRE_NAMES,
):
    """One served slate."""

    event_id: str
    request_id: str
    user_id: str
    timestamp_ms: int
    bundle_id: str
    variant: str
    slate: tuple[ShownItem, ...]
    unshown: tuple[UnshownItem, ...] = ()
    dropped: tuple[DroppedItem, ...] = ()
    """A uniform draw from the `n_dropped` that retrieval found and the candidate list left out."""
    n_dropped: int = 0
    history_version: int = 0
    history_items: tuple[str, ...] = ()
    """The most recent item ids the user tower read, oldest first: the features as used."""
    context: dict[str, str] = {}
    coverage: float = 1.0
    degraded: tuple[str, ...] = ()
    stage_ms: dict[str, float] = {}
    experiment: str | None = None
    experiments: tuple[str, ...] = ()
    """The sides it was answered under, each as `EXPERIMENT_ID:ARM`."""
    diversity: float | None = None
    """1 - mean cosine of the category sets of all pairs shown; None where it cannot be told."""
    novelty: float | None = None
    """Mean self-information of the items shown by the bundle's own popularity, in bits."""
    schema_version: int = SCHEMA_VERSION


class Outcome(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="outcome",
    rename=_WIRE_NAMES,
):
    """One failed, shed or degraded request."""

    event_id: str
    request_id: str
    user_id: str
    timestamp_ms: int
    bundle_id: str
    variant: str
    status: int
    reason: str
    latency_ms: float
    experiment: str | None = None
    """The rollout or the experiment of bundles that it was asked under."""
    n_requests: int = 1
    """Requests it stands for: refusals of a full gateway are recorded together."""
    schema_version: int = SCHEMA_VERSION


class CatalogueChange(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="catalogue",
    rename=_WIRE_NAMES,
):
    """An item put into or taken out of the catalogue; keyed by item id."""

    event_id: str
    item_id: str
    timestamp_ms: int
    deleted: bool = False
    title: str = ""
    categories: tuple[str, ...] = ()
    creator: str = ""
    created_ms: int | None = None
    schema_version: int = SCHEMA_VERSION


class Forgotten(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="forgotten",
    rename=_WIRE_NAMES,
):
    """A person asked to be forgotten: what the log says of them up to here is void."""

    event_id: str
    user_id: str
    timestamp_ms: int
    schema_version: int = SCHEMA_VERSION


class ShadowAnswer(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="shadow",
    rename=_WIRE_NAMES,
):
    """What a bundle nobody sees answered to a copy of a request, beside what the user got."""

    event_id: str
    request_id: str
    user_id: str
    timestamp_ms: int
    shadow_id: str
    bundle_id: str
    """The shadow's."""
    live_bundle_id: str
    status: int
    """200, or what a user would have got within `serve.shadow_deadline_ms`."""
    reason: str = ""
    """Why it is not 200."""
    live_items: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    """Both slates in order."""
    propensities: tuple[float, ...] = ()
    """Of `items`, under the shadow's policy."""
    live_ms: float = 0.0
    shadow_ms: float = 0.0
    """Time in the pipeline."""
    degraded: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


Event: TypeAlias = Engagement | Impression | Outcome | ShadowAnswer | CatalogueChange | Forgotten

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """The event as JSON bytes."""
    return _encoder.encode(event)


def decode_event(data: bytes) -> Event:
    """The event of JSON bytes.

    Raises:
        msgspec.ValidationError: not an event of this schema (it is a `ValueError`).
    """
    return _decoder.decode(data)


def event_key(event: Event) -> str:
    """The key that decides the partition: the user id, or the item id of a catalogue change."""
    return event.item_id if isinstance(event, CatalogueChange) else event.user_id


def new_event_id() -> str:
    """A fresh event id: 32 hexadecimal digits."""
    return random_id()
