"""One partition's evidence in memory: what a store makes of updates, for tests without a disk."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.events import Event, encode_event
from recsys.stores.evidence.evidence_tables import SUM_TABLES
from recsys.stores.log.event_log import LogRecord
from train_app.following.evidence.evidence_delta import Key, Sums
from train_app.following.evidence.evidence_fold import fold_evidence
from train_app.following.evidence.evidence_records import StoredEvidence, decode_evidence
from train_app.following.evidence.user_trail import EvidenceRules, Trail, decode_trail, encode_trail

TABLES = tuple(SUM_TABLES)


class MemoryEvidence:
    """Adds up the updates of batches; ids of users and events are hashed to themselves."""

    def __init__(self, rules: EvidenceRules) -> None:
        self._rules = rules
        self._watermark_ms = 0
        self._trails: dict[int, bytes] = {}
        self._seen: dict[int, int] = {}
        self._names: dict[str, set[str]] = {}
        self._ids: dict[str, int] = {}
        self.tables: dict[str, dict[Key, Sums]] = {name: {} for name in TABLES}
        self.n_bad = self.n_repeated = 0

    def take(self, events: Sequence[Event | bytes]) -> None:
        """Take in one batch; bytes are a record as it is."""
        records = [
            LogRecord(0, n, "", event if isinstance(event, bytes) else encode_event(event))
            for n, event in enumerate(events)
        ]
        decoded = decode_evidence(records, self.hashed)
        stored = StoredEvidence(
            self._watermark_ms,
            {
                user: decode_trail(self._trails[user])
                for user in decoded.user_hashes
                if user in self._trails
            },
            {one: self._seen[one] for one in decoded.event_hashes if one in self._seen},
            {sort: frozenset(names) for sort, names in self._names.items()},
        )
        update = fold_evidence(decoded, stored, self._rules)
        self._watermark_ms = update.watermark_ms
        self._seen.update(update.seen_ms)
        for sort, name in update.names:
            self._names.setdefault(sort, set()).add(name)
        for user in update.forgotten:
            self._trails.pop(user, None)
            for name in ("users", "user_kinds"):
                for key in [key for key in self.tables[name] if key[0] == user]:
                    del self.tables[name][key]
        self._keep(update.trails)
        for name, table in self.tables.items():
            _add_up(table, getattr(update.delta, name))
        self.n_bad += len(decoded.bad)
        self.n_repeated += update.n_repeated

    def hashed(self, text: str) -> int:
        """A number of its own for every text."""
        return self._ids.setdefault(text, len(self._ids))

    def named(self, name: str) -> dict[tuple[object, ...], Sums]:
        """A table of users with their ids in place of the numbers."""
        ids = {number: text for text, number in self._ids.items()}
        return {(ids[int(key[0])], *key[1:]): sums for key, sums in self.tables[name].items()}

    def _keep(self, trails: object) -> None:
        assert isinstance(trails, dict)
        for user, trail in trails.items():
            assert isinstance(trail, Trail)
            self._trails[user] = encode_trail(trail)
        for user, document in list(self._trails.items()):
            if decode_trail(document).expires_ms(self._rules) < self._watermark_ms:
                del self._trails[user]


def _add_up(table: dict[Key, Sums], delta: dict[Key, Sums]) -> None:
    for key, sums in delta.items():
        row = table.setdefault(key, {})
        for column, n in sums.items():
            row[column] = row.get(column, 0) + n
        table[key] = {column: n for column, n in row.items() if n}
        if not table[key]:
            del table[key]
