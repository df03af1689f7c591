"""Experiments as text, from their records and what the evidence counted. Reads no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cluster.experiments.experiment_record import ExperimentRecord, ExperimentState
from cluster.experiments.layer_slices import free_gaps
from recsys.experiment_plan import ExperimentArm, Layer

HOUR_MS = 3_600_000


def list_text(records: Sequence[ExperimentRecord], holdout: float, now_ms: int) -> str:
    """One line per experiment, the newest last, and what is free."""
    lines = [
        f"{one.name:<20} {one.state:<10} {one.layer:<9} {one.share:>6.1%}  "
        f"{age_text(one, now_ms):<12} {', '.join(arm.name for arm in one.arms)}"
        for one in records
    ]
    for layer in Layer:
        taken = [
            (one.begin, one.share) for one in records if not one.is_closed and one.layer is layer
        ]
        free = sum(share for _, share in free_gaps(taken))
        lines.append(f"layer {layer}: {free:.1%} free")
    lines.append(f"holdout: {holdout:.1%} of all users")
    return "\n".join(lines)


def status_text(
    record: ExperimentRecord, counted: Mapping[str, Mapping[str, Any]], now_ms: int
) -> str:
    """What an experiment is and what its sides came to so far."""
    declared = record.declared
    planned = "unknown" if declared.planned_n is None else f"{declared.planned_n:,} per arm"
    lines = [
        f"experiment {record.experiment_id}: {record.state} {age_text(record, now_ms)}, layer "
        f"{record.layer}, {record.share:.1%} of its users from {record.begin:.1%} on, by "
        f"{record.who}",
        f"declared: {declared.metric}, margin {declared.margin:.1%}, alpha {declared.alpha:g}, "
        f"planned users {planned}, label window {record.design().window_text}",
    ]
    lines += [f"hypothesis: {declared.hypothesis}"] if declared.hypothesis else []
    for arm in record.arms:
        line = f"  {arm.name:<10} {arm.share:>6.1%}  {shown_text(arm)}"
        found = counted.get(arm.name)
        if found:
            line += (
                f"  {found['users']:,} users, {found['slates']:,} slates, "
                f"{found['engaged_items']:,} engaged of {found['shown']:,} shown"
            )
        lines.append(line)
    if record.is_closed:
        lines.append(f"stopped: {record.why}")
    elif record.state is ExperimentState.RUNNING:
        if record.layer is Layer.ORDERING:
            lines.append("the report counts its users: the evidence tells bundles apart alone")
        lines.append(f"what it shows: 'cluster experiment report {record.name}'")
    else:
        lines.append("waits for replicas; run 'cluster experiment start' again to go on")
    return "\n".join(lines)


def shown_text(arm: ExperimentArm) -> str:
    """What a side shows."""
    changed = ", ".join(f"{key}={value}" for key, value in arm.ordering.items())
    return arm.bundle_id or changed or "as it is"


def age_text(record: ExperimentRecord, now_ms: int) -> str:
    """How long it has run, or when it was stopped."""
    if record.stopped_ms is not None:
        return f"{datetime.fromtimestamp(record.stopped_ms / 1000, UTC):%Y-%m-%d}"
    since_ms = record.started_ms if record.ran_from_ms is None else record.ran_from_ms
    hours = max(now_ms - since_ms, 0) / HOUR_MS
    if hours < 1:
        return f"for {hours * 60:.0f} min"
    return f"for {hours / 24:.1f} d" if hours >= 48 else f"for {hours:.1f} h"
