"""The statements that bring a batch into the evidence store, for SQLite and Postgres.

Made once for a writer: to put one together costs more than to run it. Knows tables; no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Table, and_, bindparam, delete, select, update

from recsys.stores.evidence import evidence_tables as tables
from recsys.stores.evidence.evidence_tables import upsert

PART = "a_partition"
"""How a statement's conditions name the partition; a column's own name is taken in updates."""


@dataclass(frozen=True, slots=True)
class SumStatements:
    """What is done to one table of sums."""

    name: str
    """Of the delta that goes into it."""
    columns: tuple[str, ...]
    sums: tuple[str, ...]
    """The columns that are added up: the last ones."""
    add: str
    """Add rows of all columns, in the driver's own words."""
    drop_empty: Any
    """Delete rows, given whole, whose sums have all come to 0."""


class EvidenceStatements:
    """The statements of one writer; what they ask for is named beside each."""

    def __init__(self, engine: Engine) -> None:
        parts, names, trails, seen = tables.parts, tables.names, tables.trails, tables.seen
        at_part = parts.c.partition == bindparam(PART)
        self.begin = upsert(engine, parts).on_conflict_do_nothing()
        self.offsets = select(parts.c.partition, parts.c.next_offset)
        self.claim = (  # PART, an_offset, next_offset
            update(parts)
            .where(at_part, parts.c.next_offset == bindparam("an_offset"))
            .values(next_offset=bindparam("next_offset"))
        )
        self.watermark = select(parts.c.watermark_ms).where(at_part)
        self.keep_watermark = (  # PART, watermark_ms
            update(parts).where(at_part).values(watermark_ms=bindparam("watermark_ms"))
        )
        self.names = select(names.c.sort, names.c.name).where(names.c.partition == bindparam(PART))
        self.keep_names = _of_rows(engine, upsert(engine, names).on_conflict_do_nothing())
        # A list of hashes, `some`.
        self.trails = _among(trails, "user_hash", trails.c.user_hash, trails.c.document)
        self.seen = _among(seen, "event_hash", seen.c.event_hash, seen.c.seen_ms)
        self.forget = [_deletion(table, "user_hash") for table in tables.PERSONAL]
        self.keep_trails = _replacement(engine, trails, ("expires_ms", "document"))
        self.keep_seen = _replacement(engine, seen, ("seen_ms",))
        # PART and a time, `before_ms`.
        self.expire_trails = _expiry(trails, trails.c.expires_ms)
        self.expire_seen = _expiry(seen, seen.c.seen_ms)
        self.expire_days = [
            _expiry(table, table.c.day_ms) for table in (tables.users, tables.user_kinds)
        ]
        self.sums = [
            _sum_statements(engine, name, table, sums)
            for name, (table, sums) in tables.SUM_TABLES.items()
        ]


def _among(table: Table, column: str, *wanted: Any) -> Any:
    among = table.c[column].in_(bindparam("some", expanding=True))
    return select(*wanted).where(table.c.partition == bindparam(PART), among)


def _deletion(table: Table, column: str) -> Any:
    among = table.c[column].in_(bindparam("some", expanding=True))
    return delete(table).where(table.c.partition == bindparam(PART), among)


def _expiry(table: Table, column: Any) -> Any:
    is_over = column < bindparam("before_ms")
    return delete(table).where(table.c.partition == bindparam(PART), is_over)


def _of_rows(engine: Engine, insert: Any) -> str:
    """An insert in the driver's own words, for rows as tuples of all the table's columns.

    To name and look up every value of a row takes twice as long as to store the row.
    """
    dialect: Any = engine.dialect
    if not dialect.positional:
        dialect = type(dialect)(paramstyle="format")
    return str(insert.compile(dialect=dialect))


def _replacement(engine: Engine, table: Table, replaced: Sequence[str]) -> str:
    insert = upsert(engine, table)
    excluded = insert.excluded
    keys = [column.name for column in table.primary_key]
    kept = {name: excluded[name] for name in replaced}
    return _of_rows(engine, insert.on_conflict_do_update(index_elements=keys, set_=kept))


def _sum_statements(
    engine: Engine, name: str, table: Table, sums: tuple[str, ...]
) -> SumStatements:
    insert = upsert(engine, table)
    excluded = insert.excluded
    added = {column: table.c[column] + excluded[column] for column in sums}
    keys = [column.name for column in table.primary_key]
    # As named in a row: the parameters of a deletion do not clash with its columns.
    is_row = [table.c[key] == bindparam(key) for key in keys]
    is_empty = [table.c[column] == 0 for column in sums]
    return SumStatements(
        name,
        tuple(column.name for column in table.columns),
        sums,
        _of_rows(engine, insert.on_conflict_do_update(index_elements=keys, set_=added)),
        delete(table).where(and_(*is_row, *is_empty)),
    )
