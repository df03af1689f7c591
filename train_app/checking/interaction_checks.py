"""Whether the engagements that are to be learned from can teach anything.

Pure: looks at the arrays, knows no lake.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.settings import Settings
from train_app.checking.check_report import CheckResult, Finding, error, warning
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


def check_sizes(interactions: Interactions, settings: Settings) -> CheckResult:
    """Whether there are enough engagements, users and items."""
    n_users = int(np.count_nonzero(np.diff(interactions.offsets)))
    n_items = len(np.unique(interactions.rows))
    figures = {"engagements": len(interactions), "users": n_users, "items": n_items}
    findings = _sizes(len(interactions), n_users, n_items, settings.train.min_engagements)
    return CheckResult("sizes", tuple(findings), figures, "enough of everything")


def check_order(interactions: Interactions, settings: Settings) -> CheckResult:
    """Whether the times say what came before what."""
    times = interactions.timestamps_ms
    if not len(times):
        return CheckResult("order", note="no engagements")
    if times.min() == times.max():
        return CheckResult(
            "order",
            (
                error(
                    f"all {len(times)} engagements have the same time, so the newest cannot be"
                    " held out to evaluate on; import data with a timestamp column"
                ),
            ),
        )
    same_user = np.diff(interactions.user_of_event()) == 0
    n_pairs = int(np.count_nonzero(same_user))
    n_ties = int(np.count_nonzero(same_user & (np.diff(times) == 0)))
    share = n_ties / n_pairs if n_pairs else 0.0
    findings: tuple[Finding, ...] = ()
    if share > HIGH_TIE_SHARE:
        findings = (
            warning(
                f"{share:.0%} of the engagements have the same time as the one before of the same"
                " user; their order of arrival is used; import finer times if it is wrong"
            ),
        )
    return CheckResult("order", findings, {"tie_share": share}, "times tell the order")


def check_balance(interactions: Interactions, settings: Settings) -> CheckResult:
    """Whether one user or item stands for most of the data."""
    n_events = len(interactions)
    if not n_events:
        return CheckResult("balance", note="no engagements")
    findings: list[Finding] = []
    figures: dict[str, float] = {}
    for name, index, size in (
        ("user", interactions.user_of_event(), interactions.n_users),
        ("item", interactions.rows, interactions.n_items),
    ):
        counts = np.bincount(index, minlength=size)
        share = figures[f"largest_{name}_share"] = float(counts.max() / n_events)
        if share > HIGH_SHARE_OF_ONE and np.count_nonzero(counts) > 1:
            which = int(counts.argmax())
            label = f"item {interactions.items[which].item_id}" if name == "item" else "one user"
            findings.append(
                warning(
                    f"{share:.0%} of the engagements are of {label}; check whether it is a robot"
                    " or a placeholder, and import without it"
                )
            )
    pairs = interactions.user_of_event() * interactions.n_items + interactions.rows
    figures["repeat_share"] = 1 - len(np.unique(pairs)) / n_events
    if figures["repeat_share"] > HIGH_REPEAT_SHARE:
        findings.append(
            warning(
                f"{figures['repeat_share']:.0%} of the engagements repeat an item the user had"
                " already; check for rows that were logged twice"
            )
        )
    return CheckResult("balance", tuple(findings), figures, "nobody dominates")


def check_kinds(interactions: Interactions, settings: Settings) -> CheckResult:
    """Whether the kinds say what users want."""
    used = np.unique(interactions.kind_ids)
    names = {interactions.kinds[index] for index in used.tolist()}
    negative = names & set(settings.events.negative_kinds)
    findings: tuple[Finding, ...] = ()
    if names and names == negative:
        findings = (
            error(
                f"every engagement is of a negative kind ({', '.join(sorted(names))}), so nothing"
                " says what users want; import positive ones, or change events.negative_kinds"
            ),
        )
    elif len(names) == 1:
        findings = (
            warning(
                f"all engagements are of kind {next(iter(names))}; the scorer learns that one"
                " action only, map a kind column if the data has one"
            ),
        )
    return CheckResult("kinds", findings, {"kinds": len(names)}, ", ".join(sorted(names)))


def check_catalogue(interactions: Interactions, settings: Settings) -> CheckResult:
    """Whether there are items, with content."""
    untitled = sum(1 for item in interactions.items if not item.title)
    figures = {"items": interactions.n_items, "untitled": untitled}
    findings: tuple[Finding, ...] = ()
    if not interactions.n_items:
        findings = (error("no item is in the catalogue; import some with --items"),)
    elif untitled == interactions.n_items:
        findings = (
            warning(
                "no item has a title, so new items cannot be placed by content and answers show"
                " ids only; import them with --items"
            ),
        )
    return CheckResult("catalogue", findings, figures, "items have content")


def _sizes(n_events: int, n_users: int, n_items: int, least: int) -> Iterator[Finding]:
    if n_events < least:
        yield error(
            f"{n_events} engagements, expected at least {least} (train.min_engagements); import or"
            " log more"
        )
    if n_users < MIN_USERS:
        yield error(
            f"{n_users} user(s) with engagements, expected at least {MIN_USERS}; check that the"
            " right column was imported as user_id"
        )
    elif n_users < SMALL_USERS:
        yield warning(f"only {n_users} users; expect little beyond popularity")
    if n_items < MIN_ITEMS:
        yield error(
            f"{n_items} item(s) engaged with, expected at least {MIN_ITEMS}; check that the right"
            " column was imported as item_id"
        )
    elif n_items < SMALL_ITEMS:
        yield warning(f"only {n_items} items; a slate will hold most of them")
    if n_users and n_events / n_users < MIN_EVENTS_PER_USER:
        yield warning(
            f"{n_events / n_users:.1f} engagements per user, expected at least"
            f" {MIN_EVENTS_PER_USER:.0f} to learn what follows what; import a longer time"
        )
