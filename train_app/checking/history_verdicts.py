"""Judges the histories that serving logged by those that the lake's events make. Pure.

What the lake cannot make is a difference, unless something on record explains why it cannot.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from train_app.checking.history_replay import (
    Items,
    ReceivedEvent,
    likely_orders,
    reachable,
    replay,
)

MAX_ANSWER_MS = 60_000
"""The longest deadline: a request is logged with the time at which it came."""
Verdict: TypeAlias = Literal[
    "equal",
    "different",
    "unread",
    "unlogged",
    "ahead of the lake",
    "imported between",
    "lost from the log",
    "quarantined",
    "forgotten",
]


@dataclass(frozen=True, slots=True)
class LoggedFeatures:
    """The features of one impression, as serving used them."""

    timestamp_ms: int
    version: int
    items: Items
    is_unread: bool = False
    log_offset: int | None = None


@dataclass(frozen=True, slots=True)
class ReplayRules:
    """The settings that histories depend on."""

    limit: int
    """Events that a history keeps."""
    earlier_limits: tuple[int, ...] = ()
    """What that was before, as far as earlier reports say."""
    items_since_ms: int | None = None
    """From when on impressions say items; None: none of them does."""


@dataclass(frozen=True, slots=True)
class UserFacts:
    """What the lake has on record of a user's partition of the log."""

    filled_to: int | None = None
    """The offset up to which it has every engagement; None where it does not say."""
    gap_offset: int | None = None
    """The first record that was gone from the log before the lake had it."""
    quarantine_offset: int | None = None
    """The user's first record that went to the quarantine."""
    forgettings: tuple[tuple[int, int], ...] = ()
    """Offset and time, in ms, of each request to be forgotten."""


NO_FACTS = UserFacts()


def compare_histories(
    impressions: Sequence[LoggedFeatures],
    received: Sequence[ReceivedEvent],
    rules: ReplayRules,
    facts: UserFacts = NO_FACTS,
) -> list[Verdict]:
    """What the features of one user's impressions are, compared with those made again.

    A history that no order of the user's events makes is `different`, unless something on record
    explains why the lake cannot make it.

    Args:
        received: the user's engagements: imported ones by time of import, logged ones in log order.
    """
    imported = [one for one in received if one.is_imported]
    logged = [one for one in received if not one.is_imported]
    verdicts: list[Verdict | None] = ["unread" if one.is_unread else None for one in impressions]
    versions: list[int] = []
    has_all = True
    limits = (rules.limit, *rules.earlier_limits)
    was_forgotten = bool(logged) and any(at < logged[0].sequence for at, _ in facts.forgettings)
    for order in likely_orders(imported, logged, limits, was_forgotten=was_forgotten):
        if None not in verdicts:
            break
        made, found_versions = replay(order, logged, {one.version for one in impressions})
        versions = versions or found_versions
        _tell(verdicts, impressions, {version: {items} for version, items in made.items()}, rules)
    if None in verdicts and imported:
        found, has_all = reachable(imported, logged, rules.limit)
        _tell(verdicts, impressions, found, rules)
    first_offset = _first_offset(impressions, logged)
    offsets = [one.sequence for one in logged]

    def judged(one: LoggedFeatures) -> Verdict:
        """What there is to say of a history that nothing makes."""
        at = len(offsets) if one.log_offset is None else bisect_left(offsets, one.log_offset)
        excuse = _beyond(one, facts) if one.version > versions[at] else None
        if excuse:
            return excuse
        if not has_all:
            return "imported between"
        return "forgotten" if _was_forgotten(one, first_offset, facts) else "different"

    return [verdict or judged(one) for verdict, one in zip(verdicts, impressions, strict=True)]


def _tell(
    verdicts: list[Verdict | None],
    impressions: Sequence[LoggedFeatures],
    made: Mapping[int, Collection[Items]],
    rules: ReplayRules,
) -> None:
    """Give the impressions that have none yet a verdict, where these histories tell it."""
    for i, one in enumerate(impressions):
        if verdicts[i] is None:
            told = (_told(one, kept, rules) for kept in made.get(one.version, ()))
            verdicts[i] = next((verdict for verdict in told if verdict), None)


def _told(one: LoggedFeatures, kept: Items, rules: ReplayRules) -> Verdict | None:
    """What a history of the same version says of the logged one; None where they differ."""
    if one.items:
        return "equal" if kept[-len(one.items) :] == one.items else None
    if not kept:
        return "equal"
    is_unlogged = rules.items_since_ms is None or one.timestamp_ms < rules.items_since_ms
    return "unlogged" if is_unlogged else None


def _beyond(one: LoggedFeatures, facts: UserFacts) -> Verdict | None:
    """The fact that explains a version which counts more changes than the lake has before it."""
    offset = one.log_offset
    if offset is None or facts.filled_to is None or offset >= facts.filled_to:
        return "ahead of the lake"
    if facts.gap_offset is not None and facts.gap_offset < offset:
        return "lost from the log"
    if facts.quarantine_offset is not None and facts.quarantine_offset < offset:
        return "quarantined"
    return None


def _was_forgotten(one: LoggedFeatures, first_offset: int | None, facts: UserFacts) -> bool:
    """Whether it was answered before a request that stands before all the lake has of its user."""
    return first_offset is not None and any(
        at < first_offset and one.timestamp_ms <= received_ms + MAX_ANSWER_MS
        for at, received_ms in facts.forgettings
    )


def _first_offset(
    impressions: Sequence[LoggedFeatures], logged: Sequence[ReceivedEvent]
) -> int | None:
    """Where the user's first record of the lake stands in the log."""
    offsets = [one.log_offset for one in impressions if one.log_offset is not None]
    return min([*offsets, *(one.sequence for one in logged)], default=None)
