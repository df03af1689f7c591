"""Whether engagements can be learned from, and what about them is odd.

Pure: looks at the arrays, knows no lake. An error refuses training, a warning is only told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from recsys.errors import DataRefused
from recsys.events import MAX_FUTURE_MS
from recsys.settings import Settings
from train_app.examples.interactions import Interactions

MIN_USERS = 2
MIN_ITEMS = 2
SMALL_USERS = 50
SMALL_ITEMS = 20
MIN_EVENTS_PER_USER = 2.0
HIGH_REPEAT_SHARE = 0.5
HIGH_TIE_SHARE = 0.5
HIGH_SHARE_OF_ONE = 0.5
"""More than this share of all engagements by one user, or on one item, is odd."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the data: what it is and what to do."""

    name: str
    level: Literal["error", "warning"]
    detail: str


def check(interactions: Interactions, settings: Settings, now_ms: int) -> list[Finding]:
    """Everything odd about the data, errors first."""
    findings = [
        *_sizes(interactions, settings),
        *_times(interactions, now_ms),
        *_balance(interactions),
        *_kinds(interactions, settings),
        *_catalogue(interactions),
    ]
    return sorted(findings, key=lambda finding: finding.level)


def refuse_unfit(findings: Sequence[Finding]) -> None:
    """Stop where training cannot make sense.

    Raises:
        DataRefused: there are errors among the findings; names all of them.
    """
    errors = [finding.detail for finding in findings if finding.level == "error"]
    if errors:
        raise DataRefused("the data checks refused to train: " + "; ".join(errors))


def _sizes(interactions: Interactions, settings: Settings) -> Iterator[Finding]:
    n_events = len(interactions)
    n_users = int(np.count_nonzero(np.diff(interactions.offsets)))
    n_items = len(np.unique(interactions.rows))
    least = settings.train.min_engagements
    if n_events < least:
        yield _error(
            "too few engagements",
            f"{n_events} engagements, expected at least {least} (train.min_engagements); import or"
            " log more",
        )
    if n_users < MIN_USERS:
        yield _error(
            "too few users",
            f"{n_users} user(s) with engagements, expected at least {MIN_USERS}; check that the"
            " right column was imported as user_id",
        )
    elif n_users < SMALL_USERS:
        yield _warning("few users", f"only {n_users} users; expect little beyond popularity")
    if n_items < MIN_ITEMS:
        yield _error(
            "too few items",
            f"{n_items} item(s) engaged with, expected at least {MIN_ITEMS}; check that the right"
            " column was imported as item_id",
        )
    elif n_items < SMALL_ITEMS:
        yield _warning("few items", f"only {n_items} items; a slate will hold most of them")
    if n_users and n_events / n_users < MIN_EVENTS_PER_USER:
        yield _warning(
            "short histories",
            f"{n_events / n_users:.1f} engagements per user, expected at least"
            f" {MIN_EVENTS_PER_USER:.0f} to learn what follows what; import a longer time",
        )


def _times(interactions: Interactions, now_ms: int) -> Iterator[Finding]:
    times = interactions.timestamps_ms
    if not len(times):
        return
    n_future = int(np.count_nonzero(times > now_ms + MAX_FUTURE_MS))
    if n_future:
        newest = datetime.fromtimestamp(int(times.max()) / 1000, UTC)
        yield _warning(
            "future times",
            f"{n_future} engagements lie in the future, the newest at {newest:%Y-%m-%d %H:%M} UTC;"
            " check the clock of this machine and the unit of the timestamps",
        )
    if times.min() == times.max():
        yield _error(
            "one time only",
            f"all {len(times)} engagements have the same time, so the newest cannot be held out to"
            " evaluate on; import data with a timestamp column",
        )
        return
    same_user = np.diff(interactions.user_of_event()) == 0
    n_pairs = int(np.count_nonzero(same_user))
    n_ties = int(np.count_nonzero(same_user & (np.diff(times) == 0)))
    if n_pairs and n_ties / n_pairs > HIGH_TIE_SHARE:
        yield _warning(
            "equal times",
            f"{n_ties / n_pairs:.0%} of the engagements have the same time as the one before of the"
            " same user; their order of arrival is used; import finer times if it is wrong",
        )


def _balance(interactions: Interactions) -> Iterator[Finding]:
    n_events = len(interactions)
    if not n_events:
        return
    for name, index, size in (
        ("user", interactions.user_of_event(), interactions.n_users),
        ("item", interactions.rows, interactions.n_items),
    ):
        counts = np.bincount(index, minlength=size)
        share = counts.max() / n_events
        if share > HIGH_SHARE_OF_ONE and np.count_nonzero(counts) > 1:
            which = int(counts.argmax())
            label = (
                interactions.user_ids[which]
                if name == "user"
                else (interactions.items[which].item_id)
            )
            yield _warning(
                f"one {name} dominates",
                f"{share:.0%} of the engagements are of {name} {label}; check whether it is a robot"
                " or a placeholder, and import without it",
            )
    pairs = interactions.user_of_event() * interactions.n_items + interactions.rows
    repeat_share = 1 - len(np.unique(pairs)) / n_events
    if repeat_share > HIGH_REPEAT_SHARE:
        yield _warning(
            "many repeats",
            f"{repeat_share:.0%} of the engagements repeat an item the user had already; check for"
            " rows that were logged twice",
        )


def _kinds(interactions: Interactions, settings: Settings) -> Iterator[Finding]:
    used = np.unique(interactions.kind_ids)
    names = {interactions.kinds[index] for index in used.tolist()}
    negative = names & set(settings.events.negative_kinds)
    if names and names == negative:
        yield _error(
            "only negative kinds",
            f"every engagement is of a negative kind ({', '.join(sorted(names))}), so nothing says"
            " what users want; import positive ones, or change events.negative_kinds",
        )
    if len(names) == 1 and names != negative:
        yield _warning(
            "one kind",
            f"all engagements are of kind {next(iter(names))}; the scorer learns that one action"
            " only, map a kind column if the data has one",
        )


def _catalogue(interactions: Interactions) -> Iterator[Finding]:
    if not interactions.n_items:
        yield _error("empty catalogue", "no item is in the catalogue; import some with --items")
        return
    untitled = sum(1 for item in interactions.items if not item.title)
    if untitled == interactions.n_items:
        yield _warning(
            "no titles",
            "no item has a title, so new items cannot be placed by content and answers show ids"
            " only; import them with --items",
        )


def _error(name: str, detail: str) -> Finding:
    return Finding(name, "error", detail)


def _warning(name: str, detail: str) -> Finding:
    return Finding(name, "warning", detail)
