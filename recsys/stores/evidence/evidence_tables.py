"""Tables of the evidence store and how a connection to it is opened, for SQLite and Postgres.

The only writer is `train_app.following.evidence.stream_evidence`, through `evidence_writer`.
Whatever a partition of the log adds stands in rows of its own, so that replicas never meet in a
row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from recsys.errors import ConfigError, StoreError
from recsys.stores.control.control_tables import is_written, open_engine

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
LAYOUT_VERSION = "3"
TRAIT_MEASURES = ("diversity_slates", "diversity_milli", "novelty_slates", "novelty_milli")
"""How many slates say what their list is like, and the sums of what they say x 1000."""
MEASURES = (
    "slates",
    "shown",
    "engaged_slates",
    "engaged_items",
    "touched_slates",
    "touched_items",
    "off_slate",
    "degraded",
    "coverage_milli",
    "sessions",
    "session_ms",
    *TRAIT_MEASURES,
)
"""Sums kept per hour and per user and day.

`touched` counts any reaction, a view too; `engaged` counts what the user wanted.
"""
SHADOW_MEASURES = (
    "n",
    "n_failed",
    "n_degraded",
    "n_compared",
    "n_same_order",
    "overlap_milli",
    "rbo_milli",
)
"""Sums of a shadow's answers beside the live ones; overlap and rbo x 1000 of pairs of slates."""
KIND_MEASURES = ("n", "items", "slates", "value_milli")
"""Sums kept per kind: engagements, shown items and slates with at least one, values x 1000."""
_MAX_PARAMETERS = 500

_metadata = MetaData()
_T = TypeVar("_T")


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(name, _metadata, *columns, sqlite_with_rowid=False)


def _key(name: str, kind: Any = Text) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _sums(names: Sequence[str]) -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False) for name in names]


def _arm() -> list[Column[Any]]:
    return [_key("bundle_id"), _key("variant"), _key("experiment")]


meta = _table("evidence_meta", _key("name"), Column("value", Text, nullable=False))

parts = _table(
    "evidence_parts",
    _key("partition", Integer),
    Column("next_offset", BigInteger, nullable=False),
    Column("watermark_ms", BigInteger, nullable=False),
)
"""Up to where each partition of the log is counted."""

names = _table("evidence_names", _key("partition", Integer), _key("sort"), _key("name"))
"""The values of segments, kinds and reasons that have rows of their own; the rest is `other`."""

hours = _table(
    "evidence_hours",
    _key("partition", Integer),
    _key("hour_ms", BigInteger),
    *_arm(),
    _key("segment"),
    *_sums(MEASURES),
)

kinds = _table(
    "evidence_kinds",
    _key("partition", Integer),
    _key("hour_ms", BigInteger),
    *_arm(),
    _key("segment"),
    _key("kind"),
    *_sums(KIND_MEASURES),
)

outcomes = _table(
    "evidence_outcomes",
    _key("partition", Integer),
    _key("hour_ms", BigInteger),
    *_arm(),
    _key("status", Integer),
    _key("reason"),
    *_sums(("n",)),
)

latencies = _table(
    "evidence_latencies",
    _key("partition", Integer),
    _key("hour_ms", BigInteger),
    *_arm(),
    _key("is_served", Integer),
    _key("bucket", Integer),
    *_sums(("n",)),
)

users = _table(
    "evidence_users",
    _key("partition", Integer),
    _key("user_hash", BigInteger),
    _key("day_ms", BigInteger),
    *_arm(),
    *_sums(MEASURES),
)

user_kinds = _table(
    "evidence_user_kinds",
    _key("partition", Integer),
    _key("user_hash", BigInteger),
    _key("day_ms", BigInteger),
    *_arm(),
    _key("kind"),
    *_sums(KIND_MEASURES),
)

shadows = _table(
    "evidence_shadows",
    _key("partition", Integer),
    _key("hour_ms", BigInteger),
    _key("shadow_id"),
    *_sums(SHADOW_MEASURES),
)

shadow_latencies = _table(
    "evidence_shadow_latencies",
    _key("partition", Integer),
    _key("hour_ms", BigInteger),
    _key("shadow_id"),
    _key("is_live", Integer),
    _key("bucket", Integer),
    *_sums(("n",)),
)

shadow_reasons = _table(
    "evidence_shadow_reasons",
    _key("partition", Integer),
    _key("hour_ms", BigInteger),
    _key("shadow_id"),
    _key("reason"),
    *_sums(("n",)),
)

trails = _table(
    "evidence_trails",
    _key("partition", Integer),
    _key("user_hash", BigInteger),
    Column("expires_ms", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
)
"""What may still be credited or merged: slates, reactions and sessions of the last hours."""

seen = _table(
    "evidence_seen",
    _key("partition", Integer),
    _key("event_hash", BigInteger),
    Column("seen_ms", BigInteger, nullable=False),
)

SUM_TABLES: dict[str, tuple[Table, tuple[str, ...]]] = {
    "hours": (hours, MEASURES),
    "kinds": (kinds, KIND_MEASURES),
    "outcomes": (outcomes, ("n",)),
    "latencies": (latencies, ("n",)),
    "users": (users, MEASURES),
    "user_kinds": (user_kinds, KIND_MEASURES),
    "shadows": (shadows, SHADOW_MEASURES),
    "shadow_latencies": (shadow_latencies, ("n",)),
    "shadow_reasons": (shadow_reasons, ("n",)),
}
"""The tables of sums, and which columns of them are added up."""
ALL = tuple(_metadata.sorted_tables)
"""Every table of the store."""
PERSONAL = (trails, users, user_kinds)
"""The tables with rows of a person."""

INDEXES = (
    Index("evidence_users_by_day", users.c.day_ms),
    Index("evidence_user_kinds_by_day", user_kinds.c.day_ms),
    Index("evidence_trails_by_end", trails.c.partition, trails.c.expires_ms),
    Index("evidence_seen_by_time", seen.c.partition, seen.c.seen_ms),
)


def open_evidence(url: str, *, writes: bool) -> Engine:
    """A lazily connecting engine; a transaction of it sees what it wrote, and one state.

    Raises:
        ConfigError: the URL is not one of SQLite or Postgres, or its driver is missing.
    """
    # Not durable, so on Postgres no turns are taken: the compare-and-set of the offset holds the
    # partition's row until the end, and nobody else touches the partition's rows.
    try:
        return open_engine(url, writes=writes, is_durable=False)
    except ConfigError as error:
        raise ConfigError(str(error).replace("control", "evidence")) from error


def has_evidence(engine: Engine) -> bool:
    """Whether the store was ever written."""
    return is_written(engine, seen)


def read_layout(connection: Any) -> str | None:
    """The layout of the store; None where it is only being made."""
    found: str | None = connection.execute(
        select(meta.c.value).where(meta.c.name == "layout")
    ).scalar()
    return found


def read_salt(connection: Any) -> bytes:
    """What user ids are hashed with; it never leaves the store."""
    found = connection.execute(select(meta.c.value).where(meta.c.name == "salt"))
    return bytes.fromhex(str(found.scalar_one()))


def hashed(salt: bytes, name: str) -> int:
    """A signed 64-bit number that names a user or an event without saying who or which."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=salt)
    return int.from_bytes(digest.digest(), "little", signed=True)


def upsert(engine: Engine, table: Table) -> Any:
    """An insert that can say what happens to rows that exist, in the engine's dialect."""
    return sqlite.insert(table) if engine.dialect.name == "sqlite" else postgresql.insert(table)


def chunks(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Slices small enough for the parameters of one statement."""
    for start in range(0, len(values), _MAX_PARAMETERS):
        yield values[start : start + _MAX_PARAMETERS]


@contextmanager
def evidence_errors(engine: Engine) -> Generator[None]:
    """Translate what the database raises into `StoreError`."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error)
        raise StoreError(
            f"evidence store {engine.url} cannot be used: {reason}; check that it runs and can be"
            " reached, or for a file its disk and permissions"
        ) from error
