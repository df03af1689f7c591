"""Makes a user's histories again from the events of the lake, version by version. Pure.

The version of a state counts its changes, so a version names one history; what the lake does not
tell is where an import came between logged events, so a history is right that any order makes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TypeAlias

from recsys.types import HistoryEvent, UserState
from train_app.following.features.feature_fold import merge_imported

MAX_STEPS = 100_000
"""States that are followed for one user, over all orders of imports."""
CLOCK_ERROR_MS = 60_000
"""By which the clock of an import may be ahead of a gateway's."""
MAX_FORGOTTEN_EVENTS = 20
"""Events after a request to be forgotten that may have gone with it."""
Items: TypeAlias = tuple[str, ...]
_timestamp_of = attrgetter("timestamp_ms")


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One engagement as the feature store got it."""

    event: HistoryEvent
    received_ms: int
    is_imported: bool
    sequence: int = 0
    """The log offset, or the row of the imported file."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order in which a store may have taken a user's events in."""

    limit: int
    imports: tuple[tuple[int, tuple[HistoryEvent, ...]], ...] = ()
    """What was offered, behind so many of the logged events."""
    first: int = 0
    """The logged event it began with."""


def likely_orders(
    imported: Sequence[ReceivedEvent],
    logged: Sequence[ReceivedEvent],
    limits: Sequence[int],
    *,
    was_forgotten: bool,
) -> Iterator[Order]:
    """The order that the times tell; that under earlier limits; and what forgetting leaves.

    Args:
        limits: events that a history keeps, now and, where that has changed, before.
        was_forgotten: whether a request to be forgotten stands before all logged events.
    """
    times = sorted({one.received_ms for one in imported})
    places = [sum(one.received_ms < at_ms for one in logged) for at_ms in times]
    for limit in limits:
        yield Order(limit, tuple(zip(places, _offers(imported, limit), strict=True)))
    if was_forgotten:
        for first in range(1, min(len(logged), MAX_FORGOTTEN_EVENTS) + 1):
            yield Order(limits[0], (), first)


def reachable(
    imported: Sequence[ReceivedEvent], logged: Sequence[ReceivedEvent], limit: int
) -> tuple[dict[int, set[Items]], bool]:
    """The histories of every order of imports, by version, and whether those are all.

    Different orders mostly meet in the same state again, so states are followed and not orders.
    """
    offers, earliest = _offers(imported, limit), _earliest(imported, logged)
    empty = UserState("")
    states: list[set[UserState]] = [{empty}, *(set[UserState]() for _ in offers)]
    for n_merged, offered in enumerate(offers, start=1):
        # A store that was made anew is offered at once what was imported until then.
        states[n_merged].add(merge_imported(empty, offered, limit)[0])
    found: dict[int, set[Items]] = {}
    n_steps = 0
    for n in range(len(logged) + 1):
        for n_merged, offered in enumerate(offers):
            if n >= earliest[n_merged]:
                # Also where an earlier import was broken off: what it brought is offered now.
                before = set[UserState]().union(*states[: n_merged + 1])
                states[n_merged + 1] |= {merge_imported(one, offered, limit)[0] for one in before}
        for state in set[UserState]().union(*states):
            items = tuple(event.item_id for event in state.history)
            found.setdefault(state.version, set()).add(items)
        if n < len(logged):
            event = logged[n].event
            states = [{_with(state, event, limit) for state in part} for part in states]
        n_steps += sum(map(len, states))
        if n_steps > MAX_STEPS:
            return found, False
    return found, True


def _earliest(imported: Sequence[ReceivedEvent], logged: Sequence[ReceivedEvent]) -> list[int]:
    """Behind how many logged events each import was merged at least.

    An import is received when it starts and merged some time after: a run that died half-way is
    completed by the next one, whenever that is.
    """
    times = sorted({one.received_ms for one in imported})
    return [sum(one.received_ms < at_ms - CLOCK_ERROR_MS for one in logged) for at_ms in times]


def _offers(imported: Sequence[ReceivedEvent], limit: int) -> list[tuple[HistoryEvent, ...]]:
    """What each import offers: the newest of all that was imported so far.

    In the order of `load_history`; events that were imported at once come in it already.
    """
    so_far: list[ReceivedEvent] = []
    offers = []
    for _, part in groupby(imported, key=attrgetter("received_ms")):
        so_far = sorted([*so_far, *part], key=_place_of)[-limit:]
        offers.append(tuple(one.event for one in so_far))
    return offers


def _place_of(one: ReceivedEvent) -> tuple[int, int, int]:
    return one.event.timestamp_ms, one.sequence, one.received_ms


def replay(
    order: Order, logged: Sequence[ReceivedEvent], wanted: Collection[int]
) -> tuple[dict[int, Items], list[int]]:
    """The histories at the wanted versions, item ids oldest first, and how versions rise.

    Returns:
        Item ids by version; and the version before the first logged event and behind each.
    """
    state = UserState("")
    made: dict[int, Items] = {0: ()}
    versions = []
    pending = list(order.imports)
    for n in range(order.first, len(logged) + 1):
        while pending and pending[0][0] <= n:
            state, _ = merge_imported(state, pending.pop(0)[1], order.limit)
            _keep(state, made, wanted)
        versions.append(state.version)
        if n < len(logged):
            state = _with(state, logged[n].event, order.limit)
            _keep(state, made, wanted)
    return made, versions


def _keep(state: UserState, made: dict[int, Items], wanted: Collection[int]) -> None:
    if state.version in wanted:
        made[state.version] = tuple(event.item_id for event in state.history)


def _with(state: UserState, event: HistoryEvent, limit: int) -> UserState:
    """The state with one more event in its place in time; one older than a full history is none."""
    history = state.history
    at = bisect_right(history, event.timestamp_ms, key=_timestamp_of)
    if at == 0 and len(history) >= limit:
        return state
    return UserState("", (*history[:at], event, *history[at:])[-limit:], state.version + 1)
