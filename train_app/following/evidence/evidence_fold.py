"""What records of one partition make of its evidence: sums to add, and trails to keep.

Pure: the same records in any split into batches, and within the bound on lateness in any order,
give the same evidence. Knows no store.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

from recsys.events import Engagement, Forgotten, Outcome
from train_app.following.evidence.attribution import (
    best_slate,
    explains_better,
    kind_sums,
    slate_of,
    slate_sums,
)
from train_app.following.evidence.evidence_delta import (
    NONE,
    OTHER,
    BoundedNames,
    EvidenceDelta,
    milli,
    safe_name,
    trait_sums,
)
from train_app.following.evidence.evidence_records import (
    CountedImpression,
    CountedRecord,
    CountedShadow,
    DecodedEvidence,
    EvidenceUpdate,
    StoredEvidence,
)
from train_app.following.evidence.sessions import join_session
from train_app.following.evidence.shadow_sums import shadow_sums
from train_app.following.evidence.user_trail import (
    ORGANIC,
    Cell,
    Credit,
    EvidenceRules,
    OpenSlate,
    RecentAct,
    Trail,
)

_order_of = attrgetter("shown_ms", "request_id")
_UNREAD_FEATURES = "features:"
"""How a slate's reasons say that it was made without the user's history."""


def fold_evidence(
    decoded: DecodedEvidence, stored: StoredEvidence, rules: EvidenceRules
) -> EvidenceUpdate:
    """The update that brings stored evidence from before these records to after them."""
    fold = _Fold(stored, rules)
    for record in decoded.records:
        fold.take(record)
    return fold.update()


class _Fold:
    """The evidence of one partition while a batch is taken in."""

    def __init__(self, stored: StoredEvidence, rules: EvidenceRules) -> None:
        self._rules = rules
        self._watermark_ms = stored.watermark_ms
        self._trails = dict(stored.trails)
        self._stored_seen = stored.seen_ms
        self._seen: dict[int, int] = {}
        self._names = BoundedNames(stored.names)
        self._cells: dict[tuple[str | None, ...], Cell] = {}
        self._delta = EvidenceDelta()
        self._forgotten: set[int] = set()
        self._n_repeated = 0

    def take(self, record: CountedRecord) -> None:
        event, user = record.event, record.user_hash
        arrived_ms = event.received_at_ms if isinstance(event, Engagement) else event.timestamp_ms
        self._watermark_ms = max(self._watermark_ms, arrived_ms)
        if self._is_repeat(record.event_hash):
            self._n_repeated += 1
            return
        match event:
            case Engagement():
                self._take_engagement(event, user, self._trail(user))
            case CountedImpression():
                self._take_impression(event, user, self._trail(user))
            case Outcome():
                self._take_outcome(event)
            case CountedShadow():
                self._take_shadow(event)
            case Forgotten():
                self._trails[user] = Trail()
                self._delta.forget_user(user)
                self._forgotten.add(user)

    def update(self) -> EvidenceUpdate:
        users_from_ms = self._rules.users_from_ms(self._watermark_ms)
        self._delta.drop_days_before(users_from_ms)
        return EvidenceUpdate(
            watermark_ms=self._watermark_ms,
            delta=self._delta,
            trails=self._trails,
            seen_ms=self._seen,
            names=self._names.added,
            forgotten=frozenset(self._forgotten),
            users_from_ms=users_from_ms,
            n_repeated=self._n_repeated,
        )

    def _trail(self, user: int) -> Trail:
        trail = self._trails.setdefault(user, Trail())
        trail.prune(self._watermark_ms, self._rules)
        return trail

    def _is_repeat(self, event_hash: int) -> bool:
        before_ms = self._seen.get(event_hash, self._stored_seen.get(event_hash))
        if before_ms is not None and self._watermark_ms - before_ms <= self._rules.dedup_ms:
            return True
        self._seen[event_hash] = self._watermark_ms
        return False

    def _take_engagement(self, event: Engagement, user: int, trail: Trail) -> None:
        act = RecentAct(
            happened_ms=event.timestamp_ms,
            arrived_ms=self._watermark_ms,
            kind=self._names.name("kind", event.kind),
            item_id=event.item_id,
            request_id=event.request_id,
            value_milli=milli(event.value),
        )
        self._credit(act, user, trail)
        trail.acts.append(act)
        self._join_session(user, trail, event.timestamp_ms)

    def _take_impression(self, event: CountedImpression, user: int, trail: Trail) -> None:
        if slate_of(event.request_id, trail.slates) is not None:
            self._n_repeated += 1
            return
        cell = self._cell(event)
        at_ms = event.timestamp_ms
        measures = {
            "slates": 1,
            "shown": len(event.slate),
            "degraded": int(bool(event.degraded)),
            "coverage_milli": milli(event.coverage),
            **trait_sums(event.diversity, event.novelty),
        }
        self._delta.count(user, at_ms, cell, measures)
        if event.stage_ms:
            latency_ms = max(event.stage_ms.values())
            arm = (cell.bundle_id, cell.variant, cell.experiment)
            self._delta.count_latency(at_ms, arm, True, latency_ms)
        items = [shown.item_id for shown in event.slate]
        slate = OpenSlate(at_ms, event.request_id, cell, items, [])
        insort(trail.slates, slate, key=_order_of)
        for act in trail.acts:
            if explains_better(slate, act) and self._take_back(act, user, trail):
                self._credit(act, user, trail)
        self._join_session(user, trail, at_ms, (at_ms, event.request_id, cell))

    def _take_outcome(self, event: Outcome) -> None:
        experiment = "" if event.experiment is None else safe_name(event.experiment)
        arm = (safe_name(event.bundle_id), safe_name(event.variant), experiment)
        reason = self._reason(event.reason)
        n_requests = max(1, event.n_requests)
        self._delta.count_outcome(event.timestamp_ms, arm, event.status, reason, n_requests)
        # A degraded answer has its latency in its impression.
        if event.status >= 400:
            self._delta.count_latency(event.timestamp_ms, arm, False, event.latency_ms)

    def _take_shadow(self, event: CountedShadow) -> None:
        at_ms, shadow_id = event.timestamp_ms, safe_name(event.shadow_id)
        reason = self._reason(event.reason) if event.status >= 400 else None
        self._delta.count_shadow(at_ms, shadow_id, shadow_sums(event), reason)
        self._delta.count_shadow_latency(at_ms, shadow_id, True, event.live_ms)
        if event.status < 400:
            self._delta.count_shadow_latency(at_ms, shadow_id, False, event.shadow_ms)

    def _reason(self, reason: str) -> str:
        return self._names.name("reason", reason if reason == safe_name(reason) else OTHER)

    def _credit(self, act: RecentAct, user: int, trail: Trail) -> None:
        """Count an engagement for the slate it belongs to, or as organic."""
        found = best_slate(act, trail.slates, self._rules.window_ms)
        if found is not None:
            slate, place = found
            act.slate, act.is_credited = slate.request_id, True
            credit = Credit(place, act.kind, act.value_milli)
            self._change(slate, user, act.kind, [*slate.credits, credit])
            return
        act.is_credited = False
        named = slate_of(act.request_id, trail.slates)
        act.slate = None if named is None else named.request_id
        if named is None:
            self._count_organic(act, user, 1)
        else:
            self._delta.count(user, named.shown_ms, named.cell, {"off_slate": 1})

    def _take_back(self, act: RecentAct, user: int, trail: Trail) -> bool:
        """Undo what `_credit` counted; False where that stands, its slate being closed."""
        if act.slate is None:
            self._count_organic(act, user, -1)
            return True
        slate = slate_of(act.slate, trail.slates)
        if slate is None:
            return False
        if not act.is_credited:
            self._delta.count(user, slate.shown_ms, slate.cell, {"off_slate": 1}, -1)
            return True
        credits = list(slate.credits)
        credits.remove(Credit(slate.items.index(act.item_id), act.kind, act.value_milli))
        self._change(slate, user, act.kind, credits)
        return True

    def _change(self, slate: OpenSlate, user: int, kind: str, credits: list[Credit]) -> None:
        """Replace a slate's credits and count the difference; only those of `kind` differ."""
        at_ms, cell = slate.shown_ms, slate.cell
        for held, sign in ((slate.credits, -1), (credits, 1)):
            self._delta.count(user, at_ms, cell, slate_sums(held, self._rules), sign)
            self._delta.count_kind(user, at_ms, cell, kind, kind_sums(held, kind), sign)
        slate.credits = credits

    def _count_organic(self, act: RecentAct, user: int, sign: int) -> None:
        sums = {"n": 1, "value_milli": act.value_milli}
        self._delta.count_kind(user, act.happened_ms, ORGANIC, act.kind, sums, sign)

    def _join_session(
        self,
        user: int,
        trail: Trail,
        at_ms: int,
        slate: tuple[int, str, Cell] | None = None,
    ) -> None:
        """Activity that comes later than the bound belongs to no session."""
        if at_ms < self._watermark_ms - self._rules.lateness_ms:
            return
        replaced, joined = join_session(trail.sessions, at_ms, self._rules.session_gap_ms, slate)
        for session, sign in (*((one, -1) for one in replaced), (joined, 1)):
            sums = {"sessions": 1, "session_ms": session.end_ms - session.start_ms}
            self._delta.count(user, session.start_ms, session.cell, sums, sign)

    def _cell(self, event: CountedImpression) -> Cell:
        if any(reason.startswith(_UNREAD_FEATURES) for reason in event.degraded):
            age = "unknown"
        else:
            age = "returning" if event.history_version else "new"
        values = [event.context.get(key) for key in self._rules.segment_keys]
        # Few cells stand for all slates; a name once counted as it is, or as `other`, stays so.
        asked = (event.bundle_id, event.variant, event.experiment, age, *values)
        cell = self._cells.get(asked)
        if cell is None:
            cell = self._cells[asked] = self._new_cell(event, age, values)
        return cell

    def _new_cell(self, event: CountedImpression, age: str, values: list[str | None]) -> Cell:
        parts = [f"user_age={age}"]
        for key, value in zip(self._rules.segment_keys, values, strict=True):
            parts.append(f"{key}={NONE if not value else self._names.name(key, value)}")
        return Cell(
            safe_name(event.bundle_id),
            safe_name(event.variant),
            "" if event.experiment is None else safe_name(event.experiment),
            ";".join(parts),
        )
