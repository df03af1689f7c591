"""Whether what is learned from now is distributed as what was learned from before.

By the population stability index (PSI) of each feature, between the logged rows that came after
the previous training and those it had. Without a previous training, the newest fifth of the logged
engagements is compared with what is older.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from train_app.checking.check_report import CheckResult, Figure, Finding, warning
from train_app.checking.lake_views import LakeViews
from train_app.importing.import_entries import latest_entries

MIN_SPAN_MS = 3_600_000
"""Shorter windows differ by the hour of the day alone."""
NEWEST_SHARE = 0.2
MAX_CATEGORIES = 20
"""Most frequent values with a bin of their own; the rest is one."""


def _log_bin(number: str) -> str:
    """SQL for the power of two a number lies under; null where it is no finite number."""
    return f"TRY_CAST(floor(log2(1 + greatest({number}, 0))) AS INTEGER)"


_ENGAGEMENT_FEATURES = {
    "kind": "kind",
    "value": f"coalesce({_log_bin('abs(value)')} * sign(value), 0)::VARCHAR",
    "category": "coalesce(category, 'none')",
    "item_age": (
        f"coalesce({_log_bin('(timestamp_ms - created_ms) / 86400000.0')}::VARCHAR, 'none')"
    ),
    "is_prompted": "(request_id IS NOT NULL)::VARCHAR",
}
_IMPRESSION_FEATURES = {
    "device": "coalesce(context['device'], 'none')",
    "surface": "coalesce(context['surface'], 'none')",
    "slate_length": "len(slate)::VARCHAR",
    "history_length": f"{_log_bin('len(history_items)')}::VARCHAR",
    "degraded": "(len(degraded) > 0)::VARCHAR",
}


def check_drift(views: LakeViews, trained_ms: Sequence[int]) -> CheckResult:
    """Whether any feature has shifted since the previous training.

    Args:
        trained_ms: the newest engagement of each earlier training, newest training first.
    """
    boundary_ms = _boundary_ms(views, trained_ms)
    if boundary_ms is None:
        return CheckResult("drift", note="too few logged engagements to compare")
    views.connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW described AS
        SELECT e.*, entry.categories[1] AS category, entry.created_ms
        FROM engagements e LEFT JOIN ({latest_entries("catalogue", "item_id")}) entry
            USING (item_id)
        WHERE e.origin <> 'import'""")
    indexes: dict[str, float] = {}
    skipped: list[str] = []
    for rows, features in (
        ("described", _ENGAGEMENT_FEATURES),
        ("impressions", _IMPRESSION_FEATURES),
    ):
        if not _can_compare(views, rows, boundary_ms):
            skipped += features
            continue
        for name, expression in features.items():
            indexes[name] = round(_psi_of(views, rows, expression, boundary_ms), 4)
    most = views.settings.checks.drift_warning
    findings: list[Finding] = [
        warning(
            f"feature {name} has shifted since the previous training: PSI {index:.2f}, expected at"
            f" most {most}; look at its values before and after {boundary_ms} ms"
        )
        for name, index in indexes.items()
        if index > most
    ]
    figures: dict[str, Figure] = {"boundary_ms": boundary_ms, **indexes}
    largest = max(indexes.values(), default=0.0)
    note = f"largest PSI {largest:.3f}" if indexes else "windows too small to compare"
    return CheckResult("drift", tuple(findings), figures, note)


def psi(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """The population stability index of two counts of values.

    Half a row is added to each bin, so that a value that is new or gone weighs by how many rows
    there are; values beyond the most frequent ones share a bin.
    """
    total = {value: before.get(value, 0) + after.get(value, 0) for value in {*before, *after}}
    frequent = set(sorted(total, key=lambda value: (-total[value], value))[:MAX_CATEGORIES])
    bins = [*sorted(frequent), None] if len(total) > len(frequent) else sorted(frequent)
    shares = [_shares(counts, bins, frequent) for counts in (before, after)]
    return math.fsum((q - p) * math.log(q / p) for p, q in zip(*shares, strict=True))


def _shares(
    counts: Mapping[str, int], bins: Sequence[str | None], frequent: set[str]
) -> list[float]:
    rest = sum(n for value, n in counts.items() if value not in frequent)
    kept = [(rest if one is None else counts.get(one, 0)) + 0.5 for one in bins]
    return [n / sum(kept) for n in kept]


def _boundary_ms(views: LakeViews, trained_ms: Sequence[int]) -> int | None:
    """The end of the newest earlier training that leaves enough rows after it to compare."""
    logged = "engagements WHERE origin <> 'import'"
    for at_ms in sorted(set(trained_ms), reverse=True):
        after = views.row(f"SELECT count(*) AS n FROM {logged} AND timestamp_ms > {at_ms}")
        if after["n"] >= views.settings.checks.drift_rows:
            return at_ms
    query = f"SELECT quantile_disc(timestamp_ms, {1 - NEWEST_SHARE}) AS at FROM {logged}"
    found = views.row(query)["at"]
    return None if found is None else int(found)


def _can_compare(views: LakeViews, rows: str, boundary_ms: int) -> bool:
    parts = views.rows(f"""
        SELECT timestamp_ms > {boundary_ms} AS is_after, count(*) AS n,
            max(timestamp_ms) - min(timestamp_ms) AS span_ms
        FROM {rows} GROUP BY is_after""")
    least = views.settings.checks.drift_rows
    return len(parts) == 2 and all(
        part["n"] >= least and part["span_ms"] >= MIN_SPAN_MS for part in parts
    )


def _psi_of(views: LakeViews, rows: str, expression: str, boundary_ms: int) -> float:
    counts: dict[bool, dict[str, int]] = {False: {}, True: {}}
    for row in views.rows(f"""
        SELECT timestamp_ms > {boundary_ms} AS is_after, {expression} AS bin, count(*) AS n
        FROM {rows} GROUP BY is_after, bin"""):
        counts[row["is_after"]][row["bin"]] = row["n"]
    return psi(counts[False], counts[True])
