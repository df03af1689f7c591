"""Reads what a shadow's answers came to from the evidence store; writes nothing."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import func, select

from recsys.stores.evidence.evidence_before import FIRST
from recsys.stores.evidence.evidence_sums import LatencyHistogram, ShadowSums

_NOTHING = LatencyHistogram({})
NO_SHADOW = ShadowSums(0, 0, 0, 0, math.nan, math.nan, _NOTHING, _NOTHING, {})


def read_shadow(tables: Any, connection: Any, shadow_id: str) -> ShadowSums:
    """One shadow's sums; of a store that never counted any, nothing.

    Args:
        tables: the module `evidence_tables`.
    """
    if tables.read_layout(connection) == FIRST:
        return NO_SHADOW
    measures = _sums(connection, tables.shadows, shadow_id, (), tables.SHADOW_MEASURES)
    row = dict(zip(tables.SHADOW_MEASURES, measures[0], strict=True)) if measures else {}
    if not row or row["n"] is None:
        return NO_SHADOW
    row = {name: int(value) for name, value in row.items()}
    latencies: dict[int, dict[int, int]] = {0: {}, 1: {}}
    by_bucket = ("is_live", "bucket")
    for is_live, bucket, n in _sums(
        connection, tables.shadow_latencies, shadow_id, by_bucket, ("n",)
    ):
        latencies[is_live][bucket] = int(n)
    reasons = _sums(connection, tables.shadow_reasons, shadow_id, ("reason",), ("n",))
    n_compared = row["n_compared"]
    return ShadowSums(
        row["n"],
        row["n_failed"],
        row["n_degraded"],
        n_compared,
        row["overlap_milli"] / 1000 / n_compared if n_compared else math.nan,
        row["rbo_milli"] / 1000 / n_compared if n_compared else math.nan,
        LatencyHistogram(latencies[1]),
        LatencyHistogram(latencies[0]),
        {reason: int(n) for reason, n in sorted(reasons)},
        row["n_same_order"],
    )


def _sums(
    connection: Any, table: Any, shadow_id: str, by: tuple[str, ...], sums: tuple[str, ...]
) -> list[Any]:
    keys = [table.c[name] for name in by]
    query = select(*keys, *(func.sum(table.c[name]) for name in sums))
    query = query.where(table.c.shadow_id == shadow_id).group_by(*keys)
    return [tuple(row) for row in connection.execute(query).fetchall()]
