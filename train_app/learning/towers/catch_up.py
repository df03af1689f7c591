"""The last pass of a training: the towers learn the events that were kept for the scorer.

Makes the job only; how it is run and where its towers go is `train_joint`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.settings import Settings
from recsys.two_tower import ITEM_TOWER_FILE, USER_TOWER_FILE
from train_app.examples.interactions import Interactions
from train_app.learning.towers.sequence_batches import Sequences, training_sequences
from train_app.learning.towers.tower_job import TowerJob

_RATE_SHARE = 0.1
"""Peak learning rate of the last pass, as a share of the training's."""


def catch_up_job(
    job: TowerJob, train: Interactions, settings: Settings, models: Path
) -> TowerJob | None:
    """A last short pass of the towers in `models` over what was kept back, and what is near it.

    The newest events say most of what comes next, and the scorer has learned from them by now.
    None where it is switched off or nothing was kept back.
    """
    towers, facts = job.facts.settings, job.facts
    share = towers.catch_up
    sequences = training_sequences(train, settings.events.negative_kinds)
    is_kept = sequences.is_target & ~job.sequences.is_target
    if not share or not is_kept.any():
        return None
    is_near = near_kept(sequences, is_kept, facts.config.history_length)
    shorter = towers.model_copy(
        update={
            "epochs": max(1, round(share * towers.epochs)),
            "max_steps": math.ceil(share * towers.max_steps),
            "max_minutes": share * towers.max_minutes,
            "learning_rate": _RATE_SHARE * towers.learning_rate,
        }
    )
    key = f"{facts.run_key}-{_weights_key(models)}-catch-up"
    last = replace(facts, settings=shorter, run_key=key, checkpoint_key=key, go_on_from=str(models))
    near = replace(sequences, is_target=sequences.is_target & is_near)
    return TowerJob(last, near, job.content, job.is_known)


def near_kept(
    sequences: Sequences, is_kept: NDArray[np.bool_], history_length: int
) -> NDArray[np.bool_]:
    """[M] The last `history_length` events of every user with an event that was kept."""
    sizes = np.diff(sequences.offsets)
    user = np.repeat(np.arange(len(sizes)), sizes)
    from_end = sequences.offsets[1:][user] - np.arange(len(user))  # 1 is the user's newest
    has_kept = np.zeros(len(sizes), np.bool_)
    has_kept[user[is_kept]] = True
    return np.asarray(has_kept[user] & (from_end <= history_length))


def _weights_key(models: Path) -> str:
    """Names the towers a pass starts from, so that it never goes on with another's checkpoint."""
    digest = hashlib.sha256()
    for name in (USER_TOWER_FILE, ITEM_TOWER_FILE):
        digest.update((models / name).read_bytes())
    return digest.hexdigest()[:16]
