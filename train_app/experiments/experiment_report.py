"""The verb `experiment-report`: what the lake says of an experiment. Reads; writes nothing but the
lake's own catching up with the log.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from recsys.errors import DataRefused
from recsys.evidence.experiment_design import ExperimentDesign
from recsys.evidence.experiment_verdict import ExperimentVerdict, judge_experiment
from recsys.evidence.factorial_effects import FactorialEffect, factorial_effects
from recsys.evidence.judgement import SAMPLE_RATIO_ALPHA
from recsys.evidence.segmented import SegmentEffect, by_day, by_segment, not_shown
from recsys.settings import Settings
from train_app.checking.lake_views import open_lake_views
from train_app.command_outcome import Outcome
from train_app.experiments.credited_slates import credit_rules
from train_app.experiments.experiment_users import N_VALUES, ExperimentUsers, read_users
from train_app.experiments.report_table import report_text
from train_app.lake.archiving.ingest import run_ingest

FALSE_COVERAGE = (
    "segments and days are exploratory: the intervals of one segmentation hold together at every "
    "look, whatever values come, those of several segmentations do not; none makes a verdict"
)


def report_experiment(
    settings: Settings,
    *,
    design: str,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Outcome:
    """`experiment-report`: verdict, metrics, segments, days and factors of one experiment.

    Args:
        design: the `ExperimentDesign` as JSON, as it was declared.

    Raises:
        ConfigError: the design cannot be read.
        StoreError: the lake cannot be read.
    """
    declared = ExperimentDesign.from_json(design)
    run_ingest(settings)
    with open_lake_views(settings, now_ms()) as views:
        newest_ms = views.row("""
            SELECT coalesce(greatest((SELECT max(timestamp_ms) FROM all_impressions),
                (SELECT max(coalesce(received_at_ms, timestamp_ms)) FROM all_engagements
                    WHERE origin <> 'import')), 0) AS newest_ms""")["newest_ms"]
        users = read_users(views, declared, credit_rules(declared, settings, newest_ms))
    verdict = judge_experiment(declared, users.arms)
    if verdict.sample_ratio_p is None:
        verdict = replace(verdict, message=_nothing_text(declared, users))
    document = report_document(declared, users, verdict, newest_ms)
    return Outcome(document, report_text(document), _refusal(declared, users, verdict))


def report_document(
    design: ExperimentDesign, users: ExperimentUsers, verdict: ExperimentVerdict, newest_ms: int
) -> dict[str, Any]:
    """Everything of the report as one JSON object."""
    arms = users.arms
    is_comparable = verdict.verdict is not None
    segments: Mapping[str, tuple[SegmentEffect, ...]] = {}
    days: tuple[SegmentEffect, ...] = ()
    factors: tuple[FactorialEffect, ...] = ()
    if is_comparable:
        segments = {
            name: by_segment(design, arms, labels, users.arrived[name], N_VALUES.get(name))
            for name, labels in users.segments.items()
        }
        days = by_day(design, users.days)
        if design.is_factorial:
            factors = factorial_effects(design.rule, arms, design.alpha)
    return {
        "design": design.to_json(),
        "watermark_ms": newest_ms,
        "users": {name: arm.n_users for name, arm in arms.items()},
        "slates": {name: _total(arm.users["slates"]) for name, arm in arms.items()},
        "with_a_past": {
            name: 0 if arm.before is None else _total(np.isfinite(arm.before["slates"]))
            for name, arm in arms.items()
        },
        "left_out": {
            "users_of_several_arms": users.n_moved,
            "slates_with_open_window": users.n_open,
            "slates_of_no_arm": users.n_outside,
        },
        "verdict": verdict.to_json(),
        "factors": [_finite(asdict(one)) for one in factors],
        "segments": {name: [one.to_json() for one in rows] for name, rows in segments.items()},
        "days": [one.to_json() for one in days],
        "notes": _notes(design, users, verdict),
    }


def _nothing_text(design: ExperimentDesign, users: ExperimentUsers) -> str:
    """Why no side has users yet."""
    if users.n_moved:
        return "no user was shown one side alone"
    if users.n_open:
        return f"no user has a slate whose label window ({design.window_text}) is closed yet"
    return (
        "no answers of this experiment yet: no impression in the lake names it; see whether it "
        "runs and its users come with 'cluster experiment status'"
    )


def _notes(
    design: ExperimentDesign, users: ExperimentUsers, verdict: ExperimentVerdict
) -> list[str]:
    notes = []
    if users.n_moved:
        notes.append(
            f"{users.n_moved:,} users were shown several sides, as no gateways of one release do; "
            "they are in none"
        )
    if users.n_open:
        notes.append(
            f"left out, because they can still be engaged with: {users.n_open:,} slates of the "
            f"last {design.window_text}"
        )
    if users.n_outside:
        notes.append(
            f"{users.n_outside:,} slates of its users were answered under no side (a bundle that "
            "was away, or before a share grew); they are left out"
        )
    planned, found = design.planned_n, min(arm.n_users for arm in users.arms.values())
    if planned is not None and found < planned and verdict.verdict is not None:
        notes.append(
            f"planned for {planned:,} users per side, the smallest has {found:,}; looking before "
            "that is allowed, the intervals hold at any look"
        )
    if verdict.verdict is not None:
        notes += _unshown(users)
        notes.append(FALSE_COVERAGE)
    return notes


def _unshown(users: ExperimentUsers) -> list[str]:
    rest = {name: not_shown(labels) for name, labels in users.segments.items()}
    return [
        f"by {name}: {n_values:,} rarer values with {n_users:,} users are not shown"
        for name, (n_values, n_users) in rest.items()
        if n_values
    ]


def _refusal(
    design: ExperimentDesign, users: ExperimentUsers, verdict: ExperimentVerdict
) -> DataRefused | None:
    """The error to end with where sides with users cannot be compared."""
    p = verdict.sample_ratio_p
    if verdict.verdict is not None or p is None:
        return None
    has_gap = min(arm.n_users for arm in users.arms.values()) == 0
    if p < SAMPLE_RATIO_ALPHA or has_gap:
        name = design.plan.experiment_id
        return DataRefused(f"experiment '{name}' bears no verdict: {verdict.message}")
    return None


def _total(column: Any) -> int:
    return int(column.sum())


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
