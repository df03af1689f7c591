"""The verb `shadow-lift`: what a shadow's slates would have earned. Reads the lake, writes none.

The log is brought into the lake first, so that it needs no archiver.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from recsys.errors import DataRefused
from recsys.settings import Settings
from train_app.command_outcome import Outcome
from train_app.lake.archiving.ingest import run_ingest
from train_app.shadows.lift_report import LiftReport
from train_app.shadows.shadow_slates import read_shadow_slates
from train_app.shadows.shadow_value import value_shadow


def run_shadow_lift(
    settings: Settings,
    *,
    shadow_id: str,
    since_ms: int | None = None,
    kind: str | None = None,
    positions: int | None = None,
    share: float | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Outcome:
    """`shadow-lift`: the estimate with intervals, or why the log cannot tell.

    Args:
        shadow_id: whose answers.
        since_ms: only requests at or after this, such as when the shadow began.
        kind: what counts as a reward; without one all kinds by their weights.
        positions: only the first so many of each slate; fewer need less support.
        share: of the requests that was to be copied, to tell what was left out.

    Raises:
        DataRefused: the lake has no pair of slates of this shadow with a closed label window.
        StoreError: the lake cannot be read.
    """
    run_ingest(settings)
    found = read_shadow_slates(
        settings, shadow_id, now_ms=now_ms(), since_ms=since_ms or 0, kind=kind, share=share
    )
    if not len(found.slates):
        counts = ", ".join(f"{n:,} {name}" for name, n in found.left_out.items()) or "none at all"
        raise DataRefused(
            f"the lake {settings.lake_location} has no answers of shadow {shadow_id} to evaluate "
            f"(left out: {counts}), expected copies of requests at least "
            f"{settings.train.label_window_s} s ago (train.label_window_s) whose impressions were "
            "logged; let it run for longer and try again"
        )
    slates = found.slates if positions is None else found.slates.head(positions)
    value = value_shadow(slates)
    report = LiftReport(
        shadow_id=shadow_id,
        bundle_ids=found.bundle_ids,
        reward=kind or "worth of engagements",
        value=value,
        left_out=found.left_out,
        uncopied=found.uncopied,
    )
    return Outcome(report.as_dict(), report.text(), value.refusal)
