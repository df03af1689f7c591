"""The events of a failure run: the n-th one is a function of the seed and n. Pure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from recsys.events import Engagement
from recsys.types import HistoryEvent

KINDS = ("view", "click", "like", "dismiss")
STEP_MS = 10
"""Between two events; a whole run stays far within the bound for late events."""


def chaos_event(seed: int, n: int, base_ms: int, n_users: int, n_items: int) -> Engagement:
    """The n-th engagement of a run.

    Args:
        base_ms: the time of the first one.
    """
    rng = random.Random(f"{seed}:{n}")
    return Engagement(
        event_id=f"c{seed}-{n}",
        kind=rng.choice(KINDS),
        user_id=f"u{rng.randrange(n_users)}",
        item_id=f"i{rng.randrange(n_items)}",
        timestamp_ms=base_ms + STEP_MS * n,
        received_at_ms=base_ms + STEP_MS * n,
        origin="api",
    )


def expected_histories(
    events: Iterable[Engagement], history_limit: int
) -> dict[str, list[HistoryEvent]]:
    """Every user's newest engagements, oldest first, where each event counts once."""
    histories: dict[str, list[HistoryEvent]] = {}
    for event in sorted(events, key=lambda event: event.timestamp_ms):
        entry = HistoryEvent(event.item_id, event.kind, event.timestamp_ms)
        histories.setdefault(event.user_id, []).append(entry)
    return {user: history[-history_limit:] for user, history in histories.items()}


def expected_item_totals(
    events: Iterable[Engagement], negative_kinds: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """Every item's engagements: of all kinds but the negative ones, and of the negative ones."""
    negative = frozenset(negative_kinds)
    counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for event in events:
        counts[event.kind in negative][event.item_id] += 1
    items = counts[False].keys() | counts[True].keys()
    return {item: (counts[False][item], counts[True][item]) for item in items}
