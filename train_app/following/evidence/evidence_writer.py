"""Brings what a batch of records changes into the evidence store, in one transaction.

`stream_evidence` is its only user. Knows tables and statements; not what evidence means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from recsys.stores.evidence import evidence_tables as tables
from recsys.stores.evidence.evidence_layout import create_evidence
from recsys.stores.evidence.evidence_tables import chunks, evidence_errors, hashed
from train_app.following.evidence.evidence_delta import Key, Sums
from train_app.following.evidence.evidence_records import EvidenceUpdate, StoredEvidence
from train_app.following.evidence.evidence_statements import PART, EvidenceStatements, SumStatements
from train_app.following.evidence.user_trail import EvidenceRules, Trail, decode_trail, encode_trail

Fold = Callable[[StoredEvidence], EvidenceUpdate]


class EvidenceWriter:
    """The writing side of the evidence store; any number may be alive at once.

    Args:
        url: SQLAlchemy URL; tables are made where missing.

    Raises:
        ConfigError: the URL cannot be used.
        StoreError: the store cannot be reached, or has another layout.
    """

    def __init__(self, url: str, rules: EvidenceRules) -> None:
        self._rules = rules
        self._engine = tables.open_evidence(url, writes=True)
        # Who only asks how far it is counted takes no write lock.
        self._reader = tables.open_evidence(url, writes=False)
        self._statements = EvidenceStatements(self._engine)
        with evidence_errors(self._engine):
            create_evidence(self._engine)
            with self._engine.begin() as connection:
                self._salt = tables.read_salt(connection)

    def hashed(self, text: str) -> int:
        """The number that stands for a user or event id in this store."""
        return hashed(self._salt, text)

    def offsets(self) -> dict[int, int]:
        """The log offset up to which each partition is counted; those that ever were."""
        with evidence_errors(self._reader), self._reader.begin() as connection:
            rows = connection.execute(self._statements.offsets).fetchall()
        return {row.partition: row.next_offset for row in rows}

    def begin(self, partition: int, offset: int) -> None:
        """Start a partition that was never counted; nothing where another was faster."""
        row = {"partition": partition, "next_offset": offset, "watermark_ms": 0}
        with evidence_errors(self._engine), self._engine.begin() as connection:
            connection.execute(self._statements.begin, [row])

    def update(
        self,
        partition: int,
        offset: int,
        next_offset: int,
        user_hashes: Sequence[int],
        event_hashes: Sequence[int],
        fold: Fold,
    ) -> EvidenceUpdate | None:
        """Store what `fold` makes of what is stored; None where the stored offset is another.

        Raises:
            StoreError: nothing was changed.
        """
        with evidence_errors(self._engine), self._engine.begin() as connection:
            # Taking the offset first holds its row until the end: nobody else can be between.
            if not self._claim(connection, partition, offset, next_offset):
                return None
            stored = self._stored(connection, partition, user_hashes, event_hashes)
            change = fold(stored)
            self._forget(connection, partition, change.forgotten)
            self._add_sums(connection, partition, change)
            self._keep_trails(connection, partition, change.trails)
            self._keep_names(connection, partition, change)
            self._expire(connection, partition, change, stored.watermark_ms)
            return change

    def close(self) -> None:
        """Give the store back."""
        self._engine.dispose()
        self._reader.dispose()

    def _claim(self, connection: Connection, partition: int, offset: int, next_offset: int) -> bool:
        claimed = connection.execute(
            self._statements.claim,
            {PART: partition, "an_offset": offset, "next_offset": next_offset},
        )
        return claimed.rowcount == 1

    def _stored(
        self,
        connection: Connection,
        partition: int,
        user_hashes: Sequence[int],
        event_hashes: Sequence[int],
    ) -> StoredEvidence:
        statements, at_part = self._statements, {PART: partition}
        watermark_ms = connection.execute(statements.watermark, at_part).scalar_one()
        trails = _select_some(connection, statements.trails, partition, user_hashes)
        known = _select_some(connection, statements.seen, partition, event_hashes)
        named: dict[str, set[str]] = defaultdict(set)
        for sort, name in connection.execute(statements.names, at_part):
            named[sort].add(name)
        return StoredEvidence(
            watermark_ms=int(watermark_ms),
            trails={user_hash: decode_trail(document) for user_hash, document in trails},
            seen_ms=dict(known),
            names={sort: frozenset(values) for sort, values in named.items()},
        )

    def _forget(self, connection: Connection, partition: int, user_hashes: Collection[int]) -> None:
        for statement in self._statements.forget if user_hashes else ():
            for part in chunks(sorted(user_hashes)):
                connection.execute(statement, {PART: partition, "some": part})

    def _add_sums(self, connection: Connection, partition: int, change: EvidenceUpdate) -> None:
        for table in self._statements.sums:
            rows = _rows(table, partition, getattr(change.delta, table.name))
            if not rows:
                continue
            connection.exec_driver_sql(table.add, rows)
            # A credit that moved may leave a row of zeros, which no other split would have made.
            n_sums = len(table.sums)
            lowered = [row for row in rows if min(row[-n_sums:]) < 0]
            if lowered:
                named = [dict(zip(table.columns, row, strict=True)) for row in lowered]
                connection.execute(table.drop_empty, named)

    def _keep_trails(
        self, connection: Connection, partition: int, trails: Mapping[int, Trail]
    ) -> None:
        rows = [
            (partition, user_hash, trail.expires_ms(self._rules), encode_trail(trail))
            for user_hash, trail in trails.items()
        ]
        if rows:
            connection.exec_driver_sql(self._statements.keep_trails, rows)

    def _keep_names(self, connection: Connection, partition: int, change: EvidenceUpdate) -> None:
        if change.seen_ms:
            seen = [(partition, *known) for known in change.seen_ms.items()]
            connection.exec_driver_sql(self._statements.keep_seen, seen)
        if change.names:
            names = [(partition, *name) for name in change.names]
            connection.exec_driver_sql(self._statements.keep_names, names)

    def _expire(
        self, connection: Connection, partition: int, change: EvidenceUpdate, before_ms: int
    ) -> None:
        """Let go of what is over, given the watermark before this batch."""
        statements, watermark_ms = self._statements, change.watermark_ms
        connection.execute(
            statements.keep_watermark, {PART: partition, "watermark_ms": watermark_ms}
        )
        seen_from_ms = watermark_ms - self._rules.dedup_ms
        connection.execute(statements.expire_trails, {PART: partition, "before_ms": watermark_ms})
        connection.execute(statements.expire_seen, {PART: partition, "before_ms": seen_from_ms})
        # No row of a day that was over is ever added, so that only a new day ends others.
        if change.users_from_ms != self._rules.users_from_ms(before_ms):
            for statement in statements.expire_days:
                connection.execute(statement, {PART: partition, "before_ms": change.users_from_ms})


def _select_some(
    connection: Connection, statement: Any, partition: int, hashes: Sequence[int]
) -> list[Any]:
    found: list[Any] = []
    for part in chunks(hashes):
        found += connection.execute(statement, {PART: partition, "some": part}).fetchall()
    return found


def _rows(table: SumStatements, partition: int, delta: Mapping[Key, Sums]) -> list[tuple[Any, ...]]:
    """Rows of a table that add the delta, as tuples of its columns; what adds nothing has none."""
    sums = table.sums
    return [
        (partition, *key, *(added.get(name, 0) for name in sums))
        for key, added in delta.items()
        if any(added.values())
    ]
