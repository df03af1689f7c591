"""The verbs that learn and judge: train and evaluate. Loads torch and ScaNN."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch

from recsys.errors import DataRefused, RecsysError
from recsys.settings import Settings
from train_app.checking.check_commands import checked
from train_app.checking.check_report import Purpose
from train_app.command_outcome import Outcome
from train_app.evaluation.breakdown.query_devices import query_devices
from train_app.evaluation.evaluation_run import (
    EvaluationRequest,
    EvaluationTools,
    Report,
    run_evaluation,
)
from train_app.evaluation.gate_evaluation import gate_text
from train_app.examples.interactions import Interactions
from train_app.examples.lake_examples import load_interactions, split_by_time
from train_app.lake.archiving.ingest import run_ingest
from train_app.learning.train_joint import train_models
from train_app.phase_clock import PhaseClock, peak_memory_mb, phases_text
from train_app.progress import Progress, duration, open_progress
from train_app.train_run import TrainRequest, TrainResult, TrainTools, run_training


def train_bundle(
    settings: Settings, *, warm_start: bool, publish: bool, until_ms: int | None
) -> Outcome:
    """`train`: from the lake to a bundle that passed the gate."""
    limit_threads(settings)
    with open_progress(sys.stderr) as progress:
        clock = PhaseClock(progress)
        tools = TrainTools(
            load=partial(read_lake, settings, progress, clock),
            cutoff_ms=partial(split_by_time, holdout_share=settings.train.holdout_share),
            train_models=train_models,
            report=clock,
            say=progress.say,
            cost=lambda: {
                "phases": clock.phases(),
                "peak_memory_mb": round(peak_memory_mb()),
            },
        )
        result = run_training(TrainRequest(publish, warm_start, until_ms), settings, tools)
    return Outcome(result.as_dict(), _train_text(result, publish), _refusal(result))


def evaluate_offline(settings: Settings, **asked: Any) -> Outcome:
    """`evaluate`: the offline table.

    Args:
        asked: the fields of an `EvaluationRequest`.
    """
    limit_threads(settings)
    with open_progress(sys.stderr) as progress:
        interactions = read_lake(settings, progress, progress, purpose="evaluation")
        tools = EvaluationTools(
            train_models, progress, devices=partial(query_devices, settings=settings)
        )
        table = run_evaluation(interactions, EvaluationRequest(**asked), settings, tools)
    return Outcome(table.as_dict(), table.text())


def limit_threads(settings: Settings) -> None:
    """Evaluation takes the threads that training may take."""
    if settings.train.n_threads:
        torch.set_num_threads(settings.train.n_threads)


def read_lake(
    settings: Settings,
    progress: Progress,
    report: Report,
    until_ms: int | None = None,
    purpose: Purpose = "training",
) -> Interactions:
    """The engagements of log and imports, checked.

    Raises:
        DataRefused: the data checks refused.
    """
    label = "reading the lake"
    report(label, 0.0)
    run_ingest(settings)
    report(label, 0.3)
    interactions = load_interactions(settings.lake_location, settings, until_ms=until_ms)
    report(label, 1.0)
    progress.say(
        f"{len(interactions):,} engagements of {interactions.n_users:,} users with "
        f"{interactions.n_items:,} items"
    )
    return checked(interactions, settings, progress, purpose, until_ms=until_ms)


def _train_text(result: TrainResult, publish: bool) -> str:
    lines = [
        f"trained on {result.n_engagements:,} engagements in {duration(result.train_s)}",
        result.evaluation.table.text(),
        gate_text(result.evaluation.decision),
        phases_text(result.cost["phases"]),
    ]
    if result.manifest is not None:
        lines.append(f"published {result.manifest.bundle_id}")
    elif not publish:
        lines.append("nothing was published; add --publish")
    return "\n".join(lines)


def _refusal(result: TrainResult) -> RecsysError | None:
    try:
        result.evaluation.decision.require_passed()
    except DataRefused as error:
        return error
    return None
