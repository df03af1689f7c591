"""Whether engagements fit the impressions they name, so that labels are what users did."""

from __future__ import annotations

from train_app.checking.check_report import CheckResult, Figure, Finding, graded
from train_app.checking.lake_views import LakeViews

CLOCK_ERROR_MS = 60_000
"""A client's clock may be so wrong before an engagement counts as earlier than its slate."""
_RULES: dict[str, tuple[float, float, str]] = {
    "early": (0.0, 0.05, "happened before their slate was shown; check the clients' clocks"),
    "stranger": (0.0, 0.01, "are of another user than the request; check the clients' user_id"),
    "off_slate": (0.02, 0.2, "are of items that were not in the slate; check what clients send"),
    "moved": (0.02, 0.2, "name another position than their item had; check what clients send"),
    "unknown": (0.05, 0.5, "name a request that no impression answers; see whether impressions are"
                " dropped"),
}  # fmt: skip
"""Shares of the engagements that name a request: what is told, what refuses, and the sentence."""


def check_labels(views: LakeViews) -> CheckResult:
    """Whether engagements that name a request agree with what it showed."""
    counts = views.row(f"""
        WITH slates AS (
            SELECT request_id, user_id, timestamp_ms,
                list_transform(slate, lambda s: s.item_id) AS items,
                list_transform(slate, lambda s: s.position) AS positions
            FROM impressions WHERE request_id IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY timestamp_ms) = 1),
        named AS (
            SELECT e.user_id = s.user_id AS is_own, e.timestamp_ms - s.timestamp_ms AS age_ms,
                list_position(s.items, e.item_id) AS place, s.positions, e.position,
                s.request_id IS NOT NULL AS is_known
            FROM engagements e LEFT JOIN slates s USING (request_id)
            WHERE e.request_id IS NOT NULL)
        SELECT count(*) AS named,
            count(*) FILTER (age_ms < -{CLOCK_ERROR_MS}) AS early,
            count(*) FILTER (NOT is_own) AS stranger,
            count(*) FILTER (is_known AND place IS NULL) AS off_slate,
            count(*) FILTER (place IS NOT NULL AND position <> positions[place]) AS moved,
            count(*) FILTER (NOT is_known) AS unknown
        FROM named""")
    total = int(counts.pop("named"))
    figures: dict[str, Figure] = {"named": total, **counts}
    findings: list[Finding] = []
    for name, (warn_above, refuse_above, what) in _RULES.items():
        sentence = f"{counts[name]:,} of {total:,} engagements that name a request {what}"
        findings += graded(counts[name], total, warn_above, refuse_above, sentence)
    note = "engagements fit their slates" if total else "no engagement names a request yet"
    return CheckResult("labels", tuple(findings), figures, note)
