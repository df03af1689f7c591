"""What may still change of one user's evidence: open slates, recent reactions, open sessions.

Knows its form as bytes and when each part is over; not how credit is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from recsys.settings import Settings
from recsys.stores.evidence.evidence_tables import DAY_MS

MAX_OPEN_SLATES = 200
"""Slates of one user that can be credited; a robot's older ones are closed early."""
MAX_RECENT_ACTS = 200
KEEP_USER_DAYS = 90
"""Sums per user are kept so long, in days of event time."""
SIGHT_KINDS = frozenset({"view"})
"""Kinds that say the user saw the item, not that it was wanted."""
SEGMENT_KEYS = ("device", "surface")
"""Keys of a request's context that evidence is split by."""


class Cell(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an observation is counted under."""

    bundle_id: str
    variant: str
    experiment: str
    segment: str


ORGANIC = Cell("", "organic", "", "")
"""Reactions that no slate is credited with."""


class Credit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One engagement that a slate is credited with."""

    item: int
    """Place of the item in the slate's list."""
    kind: str
    value_milli: int


class OpenSlate(msgspec.Struct, array_like=True, gc=False):
    """A slate that engagements may still be credited to."""

    shown_ms: int
    request_id: str
    cell: Cell
    items: list[str]
    credits: list[Credit]


class RecentAct(msgspec.Struct, array_like=True, gc=False):
    """An engagement whose credit may still move to a slate that arrives late."""

    happened_ms: int
    arrived_ms: int
    """The partition's watermark when it came."""
    kind: str
    item_id: str
    request_id: str | None
    value_milli: int
    slate: str | None = None
    """The request it is credited to, or whose slate lacks its item; None where there is none."""
    is_credited: bool = False


class OpenSession(msgspec.Struct, array_like=True, gc=False):
    """Activity without a pause longer than the gap; the first slate in it says its cell."""

    start_ms: int
    end_ms: int
    first_slate: tuple[int, str, Cell] | None = None

    @property
    def cell(self) -> Cell:
        """What the session is counted under."""
        return ORGANIC if self.first_slate is None else self.first_slate[2]


@dataclass(frozen=True, slots=True)
class EvidenceRules:
    """The settings that evidence depends on."""

    window_ms: int
    session_gap_ms: int
    lateness_ms: int
    dedup_ms: int
    negative_kinds: frozenset[str]
    sight_kinds: frozenset[str] = SIGHT_KINDS
    segment_keys: tuple[str, ...] = SEGMENT_KEYS
    keep_users_ms: int = KEEP_USER_DAYS * DAY_MS

    def is_engaged(self, kind: str) -> bool:
        """Whether a reaction says that the item was wanted."""
        return kind not in self.negative_kinds and kind not in self.sight_kinds

    def users_from_ms(self, watermark_ms: int) -> int:
        """The first day whose sums per user are kept."""
        oldest_ms = watermark_ms - self.keep_users_ms
        return oldest_ms - oldest_ms % DAY_MS


class Trail(msgspec.Struct, array_like=True, gc=False):
    """All of one user; slates by time shown, reactions by arrival, sessions by start."""

    slates: list[OpenSlate] = []
    acts: list[RecentAct] = []
    sessions: list[OpenSession] = []

    def prune(self, watermark_ms: int, rules: EvidenceRules) -> None:
        """Let go of what nothing can change any more."""
        slates_from = watermark_ms - rules.window_ms - rules.lateness_ms
        if self.slates and self.slates[0].shown_ms < slates_from:
            self.slates = [slate for slate in self.slates if slate.shown_ms >= slates_from]
        acts_from = watermark_ms - rules.lateness_ms
        if self.acts and self.acts[0].arrived_ms < acts_from:
            self.acts = [act for act in self.acts if act.arrived_ms >= acts_from]
        sessions_from = watermark_ms - rules.session_gap_ms - rules.lateness_ms
        if self.sessions and self.sessions[0].end_ms < sessions_from:
            self.sessions = [one for one in self.sessions if one.end_ms >= sessions_from]
        del self.slates[:-MAX_OPEN_SLATES]
        del self.acts[:-MAX_RECENT_ACTS]

    def expires_ms(self, rules: EvidenceRules) -> int:
        """The watermark past which nothing of it is needed; 0 where it is empty."""
        ends = [self.slates[-1].shown_ms + rules.window_ms] if self.slates else []
        ends += [self.acts[-1].arrived_ms] if self.acts else []
        ends += [self.sessions[-1].end_ms + rules.session_gap_ms] if self.sessions else []
        return max(ends) + rules.lateness_ms if ends else 0


def evidence_rules(settings: Settings) -> EvidenceRules:
    """The rules that these settings make."""
    return EvidenceRules(
        window_ms=settings.attribution.window_s * 1000,
        session_gap_ms=settings.attribution.session_gap_s * 1000,
        lateness_ms=settings.features.lateness_s * 1000,
        dedup_ms=settings.events.dedup_window_s * 1000,
        negative_kinds=frozenset(settings.events.negative_kinds),
    )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Trail)


def encode_trail(trail: Trail) -> bytes:
    """The trail as it is stored."""
    return _encoder.encode(trail)


def decode_trail(document: bytes) -> Trail:
    """The trail of stored bytes."""
    return _decoder.decode(document)
