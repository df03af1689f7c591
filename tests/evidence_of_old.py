"""Makes of an evidence store what an earlier release would have written, on SQLite and Postgres."""

from __future__ import annotations

from sqlalchemy import text

from recsys.stores.evidence.evidence_tables import TRAIT_MEASURES, open_evidence

_ARM = '"partition" INTEGER, hour_ms BIGINT, bundle_id TEXT, variant TEXT'
_TABLES = {
    "evidence_outcomes": (f"{_ARM}, status INTEGER, reason TEXT", "status, reason"),
    "evidence_latencies": (f"{_ARM}, is_served INTEGER, bucket INTEGER", "is_served, bucket"),
}
_ADDED = ("evidence_shadows", "evidence_shadow_latencies", "evidence_shadow_reasons")


def as_the_second_layout(url: str) -> None:
    """Slates say nothing of their diversity and novelty."""
    engine = open_evidence(url, writes=True)
    with engine.begin() as connection:
        for table in ("evidence_hours", "evidence_users"):
            for column in TRAIT_MEASURES:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(text("UPDATE evidence_meta SET value = '2' WHERE name = 'layout'"))
    engine.dispose()


def as_the_first_layout(url: str) -> None:
    """Outcomes and latencies lose their experiment, and shadows were never counted."""
    as_the_second_layout(url)
    engine = open_evidence(url, writes=True)
    with engine.begin() as connection:
        for table, (columns, last) in _TABLES.items():
            keys = f'"partition", hour_ms, bundle_id, variant, {last}'
            connection.execute(text(f"ALTER TABLE {table} RENAME TO kept"))
            ends = f"{columns}, n BIGINT NOT NULL, PRIMARY KEY ({keys})"
            connection.execute(text(f"CREATE TABLE {table} ({ends})"))
            connection.execute(text(f"INSERT INTO {table} SELECT {keys}, n FROM kept"))
            connection.execute(text("DROP TABLE kept"))
        for table in _ADDED:
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE evidence_meta SET value = '1' WHERE name = 'layout'"))
    engine.dispose()
