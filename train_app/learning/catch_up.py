"""The last pass of a training: the towers learn the events that were kept for the scorer.

Makes the job only; how it is run and where its towers go is `train_joint`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from recsys.settings import Settings
from train_app.examples.interactions import Interactions
from train_app.learning.sequence_batches import training_sequences
from train_app.learning.tower_job import TowerJob

_RATE_SHARE = 0.1
"""Peak learning rate of the last pass, as a share of the training's."""


def catch_up_job(
    job: TowerJob, train: Interactions, settings: Settings, models: Path
) -> TowerJob | None:
    """A last short pass of the towers in `models` over everything, what was kept back included.

    The newest events say most of what comes next, and the scorer has learned from them by now.
    None where it is switched off or nothing was kept back.
    """
    towers, facts = job.facts.settings, job.facts
    share = towers.catch_up
    sequences = training_sequences(train, settings.events.negative_kinds)
    if not share or not (sequences.is_target & ~job.sequences.is_target).any():
        return None
    shorter = towers.model_copy(
        update={
            "epochs": max(1, round(share * towers.epochs)),
            "max_steps": math.ceil(share * towers.max_steps),
            "max_minutes": share * towers.max_minutes,
            "learning_rate": _RATE_SHARE * towers.learning_rate,
        }
    )
    key = f"{facts.run_key}-catch-up"
    last = replace(facts, settings=shorter, run_key=key, checkpoint_key=key, go_on_from=str(models))
    return TowerJob(last, sequences, job.content, job.is_known)
