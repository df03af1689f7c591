"""The evidence after a failure run against plain sums over the log's records, person by person."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing

from recsys.events import Engagement, Event, Impression, decode_event
from recsys.settings import Settings
from recsys.stores.log.open_log import open_log
from tests.chaos.chaos_facts import patiently
from tests.chaos.chaos_finding import Finding, none_of
from tests.chaos.chaos_plan import ChaosPlan
from tests.evidence_by_hand import Table, evidence_by_hand
from tests.evidence_follower import stored

_RECORDS_PER_READ = 2_000


def evidence_findings(plan: ChaosPlan, settings: Settings) -> list[Finding]:
    """That every sum of the evidence is what the log's events make, each counted once."""
    events = logged_events(settings)
    wanted = sums_by_hand(events)
    found = stored(settings.evidence_url, plan.n_users)
    n_slates = sum(sums.get("slates", 0) for sums in wanted["hours"].values())
    n_credited = sum(sums.get("touched_items", 0) for sums in wanted["hours"].values())
    return [
        Finding(
            "slates in the evidence, items of them touched",
            f"{n_slates:,}, {n_credited:,}",
            n_slates > 0 and n_credited > 0,
        ),
        *(
            none_of(
                f"rows of {len(rows):,} in the evidence of {name} with another sum",
                sum(found[name].get(key) != rows.get(key) for key in found[name].keys() | rows),
            )
            for name, rows in wanted.items()
        ),
    ]


def logged_events(settings: Settings) -> list[Event]:
    """Slates and engagements of the whole log, in the order of each partition."""
    events: list[Event] = []
    with closing(patiently(lambda: open_log(settings))) as log:
        for partition, end in log.end_offsets().items():
            offset = 0
            while offset < end:
                for record in log.read(partition, offset, _RECORDS_PER_READ):
                    offset = record.offset + 1
                    event = decode_event(record.value)
                    if isinstance(event, Engagement | Impression):
                        events.append(event)
    return events


def sums_by_hand(events: list[Event]) -> dict[str, Table]:
    """The plain computation, one user at a time: none depends on another's events."""
    by_user: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if isinstance(event, Engagement | Impression):
            by_user[event.user_id].append(event)
    sums: dict[str, Table] = defaultdict(dict)
    for own in by_user.values():
        for name, table in evidence_by_hand(own).items():
            for key, row in table.items():
                into = sums[name].setdefault(key, {})
                for column, n in row.items():
                    into[column] = into.get(column, 0) + n
    return dict(sums)
