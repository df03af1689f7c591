"""Evidence as those read it who decide: sums per variant and per user, over a range of time.

Reading and forgetting only; what is counted comes from
`train_app.following.evidence.stream_evidence`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.stores.evidence.evidence_before import lacking
from recsys.stores.evidence.evidence_sums import (
    Arm,
    Coverage,
    KindSums,
    LatencyHistogram,
    ShadowSums,
    UserColumns,
    VariantEvidence,
)

T = TypeVar("T")
_ROWS_AT_ONCE = 50_000


class EvidenceReader:
    """Reads the evidence; a store that was never written is empty.

    Args:
        url: SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        from recsys.stores.evidence import evidence_tables

        self._tables = evidence_tables
        self._engine = evidence_tables.open_evidence(url, writes=False)

    def by_variant(
        self,
        bundle_ids: Collection[str] | None,
        since_ms: int,
        until_ms: int,
        segments: Collection[str] | None = None,
    ) -> list[VariantEvidence]:
        """The sums of every arm over the hours that begin in `since_ms <= hour < until_ms`.

        Args:
            bundle_ids: only these bundles; None is all of them, and the arm `organic`.
            segments: only what was counted under these, named as `segments` names them.

        Raises:
            StoreError: the store cannot be read.
        """
        read = _HourReader(self._tables, bundle_ids, since_ms, until_ms, segments)
        return self._read(read.arms, [])

    def segments(self, since_ms: int, until_ms: int) -> list[str]:
        """The segments that slates were counted under, such as `user_age=new;device=tv`."""
        hours = self._tables.hours

        def read(connection: Any) -> list[str]:
            from sqlalchemy import select

            within = hours.c.hour_ms.between(since_ms, until_ms - 1)
            query = select(hours.c.segment).where(within).distinct().order_by(hours.c.segment)
            return [row.segment for row in connection.execute(query) if row.segment]

        return self._read(read, [])

    def per_user(
        self, bundle_ids: Collection[str] | None, since_ms: int, until_ms: int
    ) -> UserColumns:
        """The sums of every user and arm over the days that touch `since_ms <= t < until_ms`.

        By arm, then by user hash, so that equal evidence is equal columns.
        """
        empty = UserColumns(np.zeros(0, np.int64), np.zeros(0, np.int64), (), {})
        read = _UserReader(self._tables, bundle_ids, since_ms, until_ms)
        return self._read(read.columns, empty)

    def coverage(self) -> Coverage:
        """How far the log is counted."""
        parts = self._tables.parts

        def read(connection: Any) -> Coverage:
            rows = connection.execute(parts.select()).fetchall()
            offsets = {row.partition: row.next_offset for row in rows}
            moving = [row.watermark_ms for row in rows if row.watermark_ms]
            return Coverage(min(moving, default=0), offsets)

        return self._read(read, Coverage(0, {}))

    def shadow(self, shadow_id: str) -> ShadowSums:
        """What a shadow's answers came to, over all the hours they were given in.

        Raises:
            StoreError: the store cannot be read.
        """
        from recsys.stores.evidence import shadow_evidence

        return self._read(
            lambda connection: shadow_evidence.read_shadow(self._tables, connection, shadow_id),
            shadow_evidence.NO_SHADOW,
        )

    def close(self) -> None:
        """Give the store back."""
        self._engine.dispose()

    def _read(self, read: Callable[[Any], T], empty: T) -> T:
        with self._tables.evidence_errors(self._engine):
            if not self._tables.has_evidence(self._engine):
                return empty
            with self._engine.begin() as connection:
                return read(connection)


def forget_in_evidence(url: str, user_id: str) -> dict[str, int]:
    """Remove a person's rows; sums of everybody together hold no person and stay.

    Returns:
        Rows removed, by table.

    Raises:
        StoreError: nothing was removed.
    """
    from sqlalchemy import delete

    from recsys.stores.evidence import evidence_tables as tables

    engine = tables.open_evidence(url, writes=True)
    removed = {table.name: 0 for table in tables.PERSONAL}
    try:
        with tables.evidence_errors(engine):
            if not tables.has_evidence(engine):
                return removed
            with engine.begin() as connection:
                user_hash = tables.hashed(tables.read_salt(connection), user_id)
                # Whoever counts at this moment would store afterwards what it has read before.
                rows = connection.execute(tables.parts.select().with_for_update()).fetchall()
                partitions = [row.partition for row in rows]
                for table in tables.PERSONAL:
                    mine = table.c.partition.in_(partitions), table.c.user_hash == user_hash
                    removed[table.name] += connection.execute(delete(table).where(*mine)).rowcount
    finally:
        engine.dispose()
    return removed


class _HourReader:
    """The tables of hours, added up by arm."""

    def __init__(
        self,
        tables: Any,
        bundle_ids: Collection[str] | None,
        since_ms: int,
        until_ms: int,
        segments: Collection[str] | None,
    ) -> None:
        self._tables = tables
        self._bundle_ids = bundle_ids
        self._bounds = (since_ms, until_ms - 1)
        self._segments = segments

    def arms(self, connection: Any) -> list[VariantEvidence]:
        tables = self._tables
        arm = ("bundle_id", "variant", "experiment")
        sums = self._sum(connection, tables.hours, arm, tables.MEASURES)
        kinds: dict[Arm, dict[str, KindSums]] = defaultdict(dict)
        for key, row in self._sum(
            connection, tables.kinds, (*arm, "kind"), tables.KIND_MEASURES
        ).items():
            kinds[key[0], key[1], key[2]][key[3]] = KindSums(
                row["n"], row["items"], row["slates"], row["value_milli"] / 1000
            )
        outcomes: dict[Arm, dict[tuple[int, str], int]] = defaultdict(dict)
        by_reason = (*arm, "status", "reason")
        for key, row in self._sum(connection, tables.outcomes, by_reason, ("n",)).items():
            outcomes[key[0], key[1], key[2]][key[3], key[4]] = row["n"]
        counts: dict[tuple[str, str, str, int], dict[int, int]] = defaultdict(dict)
        by_bucket = (*arm, "is_served", "bucket")
        for key, row in self._sum(connection, tables.latencies, by_bucket, ("n",)).items():
            counts[key[0], key[1], key[2], key[3]][key[4]] = row["n"]
        nothing = dict.fromkeys(tables.MEASURES, 0)
        return [
            VariantEvidence(
                key[0],
                key[1],
                key[2],
                sums.get(key, nothing),
                kinds.get(key, {}),
                outcomes.get(key, {}),
                LatencyHistogram(counts.get((*key, 1), {})),
                LatencyHistogram(counts.get((*key, 0), {})),
            )
            for key in sorted({*sums, *kinds, *outcomes})
        ]

    def _sum(
        self,
        connection: Any,
        table: Any,
        by: Sequence[str],
        sums: Sequence[str],
    ) -> dict[Any, dict[str, int]]:
        """Sums by columns; those that an old store lacks are empty, or 0."""
        from sqlalchemy import literal_column, select

        lacks = lacking(self._tables.read_layout(connection)).get(table.name, ())
        columns = [literal_column("''") if name in lacks else table.c[name] for name in by]
        query = select(*columns, *_added_up(table, sums, lacks))
        there = [table.c[name] for name in by if name not in lacks]
        query = query.where(table.c.hour_ms.between(*self._bounds)).group_by(*there)
        if self._bundle_ids is not None:
            query = query.where(table.c.bundle_id.in_(sorted(self._bundle_ids)))
        if self._segments is not None and "segment" in table.c:
            query = query.where(table.c.segment.in_(sorted(self._segments)))
        return {
            tuple(row[: len(by)]): dict(zip(sums, map(int, row[len(by) :]), strict=True))
            for row in connection.execute(query).fetchall()
        }


class _UserReader:
    """The tables of users, added up by arm and user, as columns."""

    def __init__(
        self, tables: Any, bundle_ids: Collection[str] | None, since_ms: int, until_ms: int
    ) -> None:
        self._tables = tables
        self._bundle_ids = bundle_ids
        self._bounds = (since_ms - since_ms % tables.DAY_MS, until_ms - 1)
        self._arms: dict[Arm, int] = {}
        self._kinds: dict[str, int] = {}

    def columns(self, connection: Any) -> UserColumns:
        tables = self._tables
        whole = self._rows(connection, tables.users, tables.MEASURES)  # [R, 3 + sums]
        by_kind = self._rows(connection, tables.user_kinds, tables.KIND_MEASURES)
        arms = sorted(self._arms)
        rank = np.zeros(len(arms), np.int64)
        rank[[self._arms[arm] for arm in arms]] = np.arange(len(arms))
        pairs = np.concatenate([whole[:, :2], by_kind[:, :2]])
        pairs[:, 0] = rank[pairs[:, 0]]
        keys, place = np.unique(pairs, axis=0, return_inverse=True)
        at, at_kind = np.split(place.reshape(-1), [len(whole)])

        def spread(rows: NDArray[np.int64], where: NDArray[np.int64], column: int) -> Any:
            spreaded = np.zeros(len(keys), np.int64)
            spreaded[where] = rows[:, 3 + column]
            return spreaded

        kinds = {}
        for kind in sorted(self._kinds):
            mine = by_kind[:, 2] == self._kinds[kind]
            kinds[kind] = {
                name: spread(by_kind[mine], at_kind[mine], column)
                for column, name in enumerate(tables.KIND_MEASURES)
            }
        sums = {name: spread(whole, at, column) for column, name in enumerate(tables.MEASURES)}
        return UserColumns(keys[:, 1], keys[:, 0], tuple(arms), sums, kinds)

    def _rows(self, connection: Any, table: Any, sums: Sequence[str]) -> NDArray[np.int64]:
        """Arm, user and kind (0 where the table has none) as numbers, then the sums."""
        from sqlalchemy import select

        lacks = lacking(self._tables.read_layout(connection)).get(table.name, ())
        by = [table.c[name] for name in ("bundle_id", "variant", "experiment", "user_hash")]
        by += [table.c.kind] if "kind" in table.c else []
        query = select(*by, *_added_up(table, sums, lacks))
        query = query.where(table.c.day_ms.between(*self._bounds)).group_by(*by)
        if self._bundle_ids is not None:
            query = query.where(table.c.bundle_id.in_(sorted(self._bundle_ids)))
        n_keys = len(by)
        parts = [np.zeros((0, 3 + len(sums)), np.int64)]
        for rows in connection.execute(query).partitions(_ROWS_AT_ONCE):
            numbers = [
                (
                    self._arms.setdefault((row[0], row[1], row[2]), len(self._arms)),
                    row[3],
                    self._kinds.setdefault(row[4], len(self._kinds)) if n_keys == 5 else 0,
                    *map(int, row[n_keys:]),
                )
                for row in rows
            ]
            parts.append(np.array(numbers, np.int64))
        return np.concatenate(parts)


def _added_up(table: Any, sums: Sequence[str], lacks: Sequence[str]) -> list[Any]:
    from sqlalchemy import func, literal_column

    return [literal_column("0") if name in lacks else func.sum(table.c[name]) for name in sums]
