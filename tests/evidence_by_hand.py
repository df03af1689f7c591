"""Random logs of a few users, and their evidence computed the plain way, all at once.

Shares no code with what it is compared with: nested loops over the whole log.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from recsys.events import Engagement, Event, Impression, Outcome, ShownItem

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_700_006_400_000
WINDOW_MS = 6 * HOUR_MS
GAP_MS = HOUR_MS // 2
LATENESS_MS = HOUR_MS
NEGATIVE = {"dismiss"}
SIGHT = {"view"}
Table = dict[tuple[object, ...], dict[str, int]]


def a_slate(
    request_id: str,
    user_id: str,
    at_ms: int,
    item_ids: Sequence[str],
    *,
    bundle_id: str = "b1",
    variant: str = "stable",
    context: dict[str, str] | None = None,
    history_version: int = 1,
    degraded: tuple[str, ...] = (),
    stage_ms: float = 10.0,
) -> Impression:
    """An impression of these items."""
    shown = tuple(
        ShownItem(
            item_id=item_id, position=place, score=1.0, propensity=0.5, source="index",
            retrieval_score=0.5, retrieval_rank=place,
        )
        for place, item_id in enumerate(item_ids)
    )  # fmt: skip
    return Impression(
        event_id=f"i-{request_id}", request_id=request_id, user_id=user_id, timestamp_ms=at_ms,
        bundle_id=bundle_id, variant=variant, slate=shown, history_version=history_version,
        context=context or {}, degraded=degraded, stage_ms={"retrieve": stage_ms},
    )  # fmt: skip


def an_act(
    event_id: str,
    user_id: str,
    at_ms: int,
    item_id: str,
    *,
    kind: str = "click",
    request_id: str | None = None,
    value: float | None = None,
    received_ms: int | None = None,
) -> Engagement:
    """An engagement."""
    return Engagement(
        event_id=event_id, kind=kind, user_id=user_id, item_id=item_id, timestamp_ms=at_ms,
        received_at_ms=at_ms if received_ms is None else received_ms, origin="api",
        request_id=request_id, value=value,
    )  # fmt: skip


def an_outcome(event_id: str, user_id: str, at_ms: int, status: int, reason: str) -> Outcome:
    """A request that was not answered as it should be."""
    return Outcome(
        event_id=event_id, request_id=f"r-{event_id}", user_id=user_id, timestamp_ms=at_ms,
        bundle_id="b1", variant="stable", status=status, reason=reason, latency_ms=250.0,
    )  # fmt: skip


def a_random_log(seed: int, n_events: int, n_users: int = 4) -> list[Event]:
    """Events over half a day that come up to the bound late, some of them twice."""
    rng = random.Random(seed)
    timed: list[tuple[float, Event]] = []
    requests: list[tuple[str, str, int, list[str]]] = []
    at_ms = START_MS
    for number in range(n_events):
        at_ms += rng.randrange(12 * HOUR_MS // n_events)
        user_id = f"u{rng.randrange(n_users)}"
        event: Event
        roll = rng.random()
        if roll < 0.35 or not requests:
            items = [f"item{i}" for i in rng.sample(range(12), 4)]
            requests.append((f"r{number}", user_id, at_ms, items))
            event = a_slate(
                f"r{number}", user_id, at_ms, items,
                bundle_id=rng.choice(["b1", "b2"]), variant=rng.choice(["stable", "canary"]),
                context=rng.choice([{}, {"device": "tv"}, {"device": "web", "surface": "home"}]),
                history_version=rng.randrange(3),
                degraded=("score: late",) if rng.random() < 0.1 else (),
                stage_ms=rng.expovariate(0.05),
            )  # fmt: skip
        elif roll < 0.93:
            event = _random_act(rng, number, user_id, at_ms, requests)
        else:
            event = an_outcome(f"o{number}", user_id, at_ms, rng.choice([200, 503]), "shed")
        # All of one moment stay apart by less than the bound, as late as they come.
        timed.append((at_ms + rng.random() * LATENESS_MS * 0.9, event))
        if rng.random() < 0.1:
            timed.append((at_ms + rng.random() * LATENESS_MS * 3, event))
    return [event for _, event in sorted(timed, key=lambda pair: pair[0])]


def _random_act(
    rng: random.Random,
    number: int,
    user_id: str,
    at_ms: int,
    requests: list[tuple[str, str, int, list[str]]],
) -> Engagement:
    request_id = None
    item_id = f"item{rng.randrange(14)}"
    if rng.random() < 0.6:
        request_id, user_id, _, items = rng.choice(requests[-12:])
        item_id = rng.choice(items) if rng.random() < 0.85 else item_id
    return an_act(
        f"e{number}", user_id, at_ms, item_id,
        kind=rng.choice(["click", "view", "buy", "dismiss"]), request_id=request_id,
        value=rng.choice([None, 1.5, 7.25]),
    )  # fmt: skip


def evidence_by_hand(events: Sequence[Event]) -> dict[str, Table]:
    """Every table of sums: key columns to the sums that are not 0."""
    once = list({event.event_id: event for event in events}.values())
    slates = [event for event in once if isinstance(event, Impression)]
    acts = [event for event in once if isinstance(event, Engagement)]
    tables: dict[str, Table] = {
        name: defaultdict(lambda: defaultdict(int))
        for name in ("hours", "kinds", "users", "user_kinds")
    }
    _count_slates(tables, slates, _credits(tables, slates, acts))
    _count_sessions(tables, slates, acts)
    return {
        name: {
            key: {column: n for column, n in sums.items() if n}
            for key, sums in table.items()
            if any(sums.values())
        }
        for name, table in tables.items()
    }


def outcomes_by_hand(events: Sequence[Event]) -> dict[tuple[int, str], int]:
    """Number of outcomes by status and reason."""
    counts: dict[tuple[int, str], int] = defaultdict(int)
    for event in {event.event_id: event for event in events}.values():
        if isinstance(event, Outcome):
            counts[event.status, event.reason] += 1
    return dict(counts)


def _credits(
    tables: dict[str, Table], slates: list[Impression], acts: list[Engagement]
) -> dict[str, list[Engagement]]:
    credited: dict[str, list[Engagement]] = defaultdict(list)
    for act in acts:
        own = [slate for slate in slates if slate.user_id == act.user_id]
        having = [s for s in own if any(shown.item_id == act.item_id for shown in s.slate)]
        named = [s for s in own if s.request_id == act.request_id]
        fits = [
            s
            for s in having
            if s in named and -HOUR_MS <= act.timestamp_ms - s.timestamp_ms <= WINDOW_MS
        ]
        before = [s for s in having if 0 <= act.timestamp_ms - s.timestamp_ms <= WINDOW_MS]
        if fits:
            credited[fits[0].request_id].append(act)
        elif before:
            newest = max(before, key=lambda s: (s.timestamp_ms, s.request_id))
            credited[newest.request_id].append(act)
        elif named:
            _add(tables, act.user_id, named[0].timestamp_ms, _cell(named[0]), {"off_slate": 1})
        else:
            sums = {"n": 1, "value_milli": round((act.value or 0) * 1000)}
            cell = ("", "organic", "", "")
            _add_kind(tables, act.user_id, act.timestamp_ms, cell, act.kind, sums)
    return credited


def _count_slates(
    tables: dict[str, Table], slates: list[Impression], credited: dict[str, list[Engagement]]
) -> None:
    for slate in slates:
        acts = credited[slate.request_id]
        wanted = [act for act in acts if act.kind not in NEGATIVE | SIGHT]
        sums = {
            "slates": 1,
            "shown": len(slate.slate),
            "touched_slates": int(bool(acts)),
            "touched_items": len({act.item_id for act in acts}),
            "engaged_slates": int(bool(wanted)),
            "engaged_items": len({act.item_id for act in wanted}),
            "degraded": int(bool(slate.degraded)),
            "coverage_milli": 1000,
        }
        _add(tables, slate.user_id, slate.timestamp_ms, _cell(slate), sums)
        for kind in {act.kind for act in acts}:
            same = [act for act in acts if act.kind == kind]
            sums = {
                "n": len(same),
                "items": len({act.item_id for act in same}),
                "slates": 1,
                "value_milli": round(sum((act.value or 0) * 1000 for act in same)),
            }
            _add_kind(tables, slate.user_id, slate.timestamp_ms, _cell(slate), kind, sums)


def _count_sessions(
    tables: dict[str, Table], slates: list[Impression], acts: list[Engagement]
) -> None:
    for user_id in {event.user_id for event in (*slates, *acts)}:
        active = sorted(
            [event for event in (*slates, *acts) if event.user_id == user_id],
            key=lambda event: event.timestamp_ms,
        )
        sessions: list[list[Impression | Engagement]] = []
        for event in active:
            if sessions and event.timestamp_ms - sessions[-1][-1].timestamp_ms <= GAP_MS:
                sessions[-1].append(event)
            else:
                sessions.append([event])
        for session in sessions:
            shown = [event for event in session if isinstance(event, Impression)]
            cell = ("", "organic", "", "")
            if shown:
                cell = _cell(min(shown, key=lambda s: (s.timestamp_ms, s.request_id)))
            start_ms = session[0].timestamp_ms
            sums = {"sessions": 1, "session_ms": session[-1].timestamp_ms - start_ms}
            _add(tables, user_id, start_ms, cell, sums)


def _cell(slate: Impression) -> tuple[str, str, str, str]:
    age = "returning" if slate.history_version else "new"
    device, surface = (slate.context.get(key, "none") for key in ("device", "surface"))
    segment = f"user_age={age};device={device};surface={surface}"
    return slate.bundle_id, slate.variant, "", segment


def _add(
    tables: dict[str, Table], user_id: str, at_ms: int, cell: tuple[str, ...], sums: dict[str, int]
) -> None:
    for column, n in sums.items():
        tables["hours"][at_ms // HOUR_MS * HOUR_MS, *cell][column] += n
        tables["users"][user_id, at_ms // DAY_MS * DAY_MS, *cell[:3]][column] += n


def _add_kind(
    tables: dict[str, Table],
    user_id: str,
    at_ms: int,
    cell: tuple[str, ...],
    kind: str,
    sums: dict[str, int],
) -> None:
    for column, n in sums.items():
        tables["kinds"][at_ms // HOUR_MS * HOUR_MS, *cell, kind][column] += n
        tables["user_kinds"][user_id, at_ms // DAY_MS * DAY_MS, *cell[:3], kind][column] += n
