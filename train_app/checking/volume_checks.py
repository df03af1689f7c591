"""Whether logged engagements are as new and as many as they were: a broken client shows here.

Imported history is as old as it is; only what came through the log is looked at.
"""

from __future__ import annotations

import statistics
from datetime import UTC, datetime

from train_app.checking.check_report import CheckResult, Finding, error, warning
from train_app.checking.lake_views import LakeViews

DAY_MS = 86_400_000
MIN_VOLUME_DAYS = 3


def check_recency(views: LakeViews) -> CheckResult:
    """Whether engagements still arrive."""
    newest_ms = newest_logged_ms(views)
    if newest_ms is None:
        return CheckResult("recency", note="no engagement came through the log yet")
    checks = views.settings.checks
    age_days = (views.as_of_ms - newest_ms) / DAY_MS
    newest = f"{datetime.fromtimestamp(newest_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    detail = (
        f"the newest logged engagement is of {newest}, {age_days:.1f} days ago; check that clients"
        " send events and that the log reaches the lake, or train with --until to mean it"
    )
    findings: tuple[Finding, ...] = ()
    if age_days > checks.recency_error_days:
        findings = (error(detail),)
    elif age_days > checks.recency_warning_days:
        findings = (warning(detail),)
    return CheckResult("recency", findings, {"age_days": round(age_days, 3)}, f"newest at {newest}")


def check_volume(views: LakeViews) -> CheckResult:
    """Whether the newest complete day has as many engagements as the days before it.

    A day is complete when there are engagements after it; that none arrive is `recency`'s.
    """
    newest_ms = newest_logged_ms(views)
    if newest_ms is None:
        return CheckResult("volume", note="no engagement came through the log yet")
    checks = views.settings.checks
    today = min(views.as_of_ms, newest_ms) // DAY_MS
    first = today - 1 - checks.volume_days
    rows = views.rows(f"""
        SELECT timestamp_ms // {DAY_MS} AS day, count(*) AS n FROM engagements
        WHERE origin <> 'import' AND timestamp_ms >= {first * DAY_MS}
            AND timestamp_ms < {today * DAY_MS}
        GROUP BY day ORDER BY day""")
    by_day = {int(row["day"]): int(row["n"]) for row in rows}
    earlier = [by_day.get(day, 0) for day in range(min(by_day, default=today), today - 1)]
    if len(earlier) < MIN_VOLUME_DAYS:
        note = f"{len(earlier)} complete days before the newest, {MIN_VOLUME_DAYS} tell"
        return CheckResult("volume", note=note)
    usual, newest = statistics.median(earlier), by_day.get(today - 1, 0)
    figures = {"usual": usual, "newest": newest, "days": len(earlier)}
    share = newest / usual if usual else 1.0
    detail = (
        f"the newest complete day has {newest:,} logged engagements, the {len(earlier)} days before"
        f" it {usual:,.0f} in the middle; check the clients and the log"
    )
    findings: tuple[Finding, ...] = ()
    if share < checks.volume_refused and usual >= checks.volume_refused_from:
        findings = (error(detail),)
    elif not checks.volume_low <= share <= checks.volume_high:
        findings = (warning(detail),)
    return CheckResult("volume", findings, figures, f"{share:.0%} of the usual")


def newest_logged_ms(views: LakeViews) -> int | None:
    """The time of the newest engagement that came through the log."""
    row = views.row("SELECT max(timestamp_ms) AS at FROM engagements WHERE origin <> 'import'")
    return None if row["at"] is None else int(row["at"])
