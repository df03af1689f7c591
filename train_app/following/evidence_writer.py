"""Brings what a batch of records changes into the evidence store, in one transaction.

`stream_evidence` is its only user. Knows tables and statements; not what evidence means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, select, update

from recsys.stores import evidence_tables as tables
from recsys.stores.evidence_tables import chunks, evidence_errors, hashed, upsert
from train_app.following.evidence_delta import Key, Sums
from train_app.following.evidence_records import EvidenceUpdate, StoredEvidence
from train_app.following.user_trail import EvidenceRules, Trail, decode_trail, encode_trail

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
        with evidence_errors(self._engine):
            tables.create_evidence(self._engine)
            with self._engine.begin() as connection:
                self._salt = tables.read_salt(connection)

    def hashed(self, text: str) -> int:
        """The number that stands for a user or event id in this store."""
        return hashed(self._salt, text)

    def offset(self, partition: int) -> int | None:
        """The log offset up to which a partition is counted; None where it never was."""
        query = select(tables.parts.c.next_offset).where(tables.parts.c.partition == partition)
        with evidence_errors(self._engine), self._engine.begin() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else int(found)

    def begin(self, partition: int, offset: int) -> None:
        """Start a partition that was never counted; nothing where another was faster."""
        row = {"partition": partition, "next_offset": offset, "watermark_ms": 0}
        statement = upsert(self._engine, tables.parts).on_conflict_do_nothing()
        with evidence_errors(self._engine), self._engine.begin() as connection:
            connection.execute(statement, [row])

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
            change = fold(self._stored(connection, partition, user_hashes, event_hashes))
            self._forget(connection, partition, change.forgotten)
            self._add_sums(connection, partition, change)
            self._keep_trails(connection, partition, change.trails)
            self._keep_names(connection, partition, change)
            self._expire(connection, partition, change)
            return change

    def close(self) -> None:
        """Give the store back."""
        self._engine.dispose()

    def _claim(self, connection: Connection, partition: int, offset: int, next_offset: int) -> bool:
        parts = tables.parts
        claimed = connection.execute(
            update(parts)
            .where(parts.c.partition == partition, parts.c.next_offset == offset)
            .values(next_offset=next_offset)
        )
        return claimed.rowcount == 1

    def _stored(
        self,
        connection: Connection,
        partition: int,
        user_hashes: Sequence[int],
        event_hashes: Sequence[int],
    ) -> StoredEvidence:
        parts, names = tables.parts, tables.names
        watermark_ms = connection.execute(
            select(parts.c.watermark_ms).where(parts.c.partition == partition)
        ).scalar_one()
        found = _select_by(connection, tables.trails, partition, "user_hash", user_hashes)
        trails = {row.user_hash: decode_trail(row.document) for row in found}
        known = _select_by(connection, tables.seen, partition, "event_hash", event_hashes)
        named: dict[str, set[str]] = defaultdict(set)
        for row in connection.execute(select(names).where(names.c.partition == partition)):
            named[row.sort].add(row.name)
        return StoredEvidence(
            watermark_ms=int(watermark_ms),
            trails=trails,
            seen_ms={row.event_hash: row.seen_ms for row in known},
            names={sort: frozenset(values) for sort, values in named.items()},
        )

    def _forget(self, connection: Connection, partition: int, user_hashes: Collection[int]) -> None:
        for table in tables.PERSONAL if user_hashes else ():
            for part in chunks(sorted(user_hashes)):
                connection.execute(
                    delete(table).where(table.c.partition == partition, table.c.user_hash.in_(part))
                )

    def _add_sums(self, connection: Connection, partition: int, change: EvidenceUpdate) -> None:
        for name, (table, sums) in tables.SUM_TABLES.items():
            delta: Mapping[Key, Sums] = getattr(change.delta, name)
            rows = _rows(table, sums, partition, delta)
            if not rows:
                continue
            insert = upsert(self._engine, table)
            added = {column: table.c[column] + insert.excluded[column] for column in sums}
            keys = [column.name for column in table.primary_key]
            connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=added), rows)
            # A credit that moved may leave a row of zeros, which no other split would have made.
            for row in (row for row in rows if any(row[column] < 0 for column in sums)):
                matches = [table.c[column] == row[column] for column in (*keys,)]
                empty = [table.c[column] == 0 for column in sums]
                connection.execute(delete(table).where(and_(*matches, *empty)))

    def _keep_trails(
        self, connection: Connection, partition: int, trails: Mapping[int, Trail]
    ) -> None:
        rows = [
            {
                "partition": partition,
                "user_hash": user_hash,
                "expires_ms": trail.expires_ms(self._rules),
                "document": encode_trail(trail),
            }
            for user_hash, trail in trails.items()
        ]
        if rows:
            insert = upsert(self._engine, tables.trails)
            kept = {name: insert.excluded[name] for name in ("expires_ms", "document")}
            keys = ["partition", "user_hash"]
            connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=kept), rows)

    def _keep_names(self, connection: Connection, partition: int, change: EvidenceUpdate) -> None:
        if change.seen_ms:
            insert = upsert(self._engine, tables.seen)
            again = {"seen_ms": insert.excluded.seen_ms}
            keys = ["partition", "event_hash"]
            connection.execute(
                insert.on_conflict_do_update(index_elements=keys, set_=again),
                [
                    {"partition": partition, "event_hash": event_hash, "seen_ms": seen_ms}
                    for event_hash, seen_ms in change.seen_ms.items()
                ],
            )
        if change.names:
            connection.execute(
                upsert(self._engine, tables.names).on_conflict_do_nothing(),
                [
                    {"partition": partition, "sort": sort, "name": name}
                    for sort, name in change.names
                ],
            )

    def _expire(self, connection: Connection, partition: int, change: EvidenceUpdate) -> None:
        parts, trails, seen = tables.parts, tables.trails, tables.seen
        watermark_ms = change.watermark_ms
        connection.execute(
            update(parts).where(parts.c.partition == partition).values(watermark_ms=watermark_ms)
        )
        connection.execute(
            delete(trails).where(
                trails.c.partition == partition, trails.c.expires_ms < watermark_ms
            )
        )
        connection.execute(
            delete(seen).where(
                seen.c.partition == partition,
                seen.c.seen_ms < watermark_ms - self._rules.dedup_ms,
            )
        )
        for table in (tables.users, tables.user_kinds):
            connection.execute(
                delete(table).where(
                    table.c.day_ms < change.users_from_ms, table.c.partition == partition
                )
            )


def _select_by(
    connection: Connection, table: Table, partition: int, column: str, values: Sequence[int]
) -> list[Any]:
    found: list[Any] = []
    for part in chunks(values):
        query = select(table).where(table.c.partition == partition, table.c[column].in_(part))
        found += connection.execute(query).fetchall()
    return found


def _rows(
    table: Table, sums: Sequence[str], partition: int, delta: Mapping[Key, Sums]
) -> list[dict[str, Any]]:
    """Rows of a table that add the delta; what adds nothing has none."""
    keys = [column.name for column in table.primary_key if column.name != "partition"]
    zeros = dict.fromkeys(sums, 0)
    return [
        {"partition": partition, **dict(zip(keys, key, strict=True)), **zeros, **added}
        for key, added in delta.items()
        if any(added.values())
    ]
