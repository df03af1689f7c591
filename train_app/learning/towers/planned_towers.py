"""The job of training the towers: shapes, schedule, histories, and what they are watched by.

Knows what is learned from what; runs nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.features import content_matrix
from recsys.learning_settings import TowerSettings
from recsys.settings import Settings
from recsys.tower_networks import TowerConfig
from train_app.examples.interactions import Interactions
from train_app.learning.checkpoints import run_key
from train_app.learning.towers.adapted_settings import adapted
from train_app.learning.towers.sequence_batches import training_sequences
from train_app.learning.towers.tower_job import JobFacts, TowerJob
from train_app.learning.warm_start import of_shape, warm_towers

_TOWER_SETTINGS = {"seed", "towers", "precision"}
"""Settings that change what the towers learn: with any other, a run that ended is not resumed."""
_RATE_SETTINGS = {"towers": {"learning_rate"}, "precision": True}
"""Settings that mend a training that diverged: it goes on from its checkpoints with others."""
_MAX_WATCHED, _LEAST_WATCHED, _WATCHED_SCORES = 1_000, 50, 20_000_000
"""Moments that towers are watched at: as many as so many scores of all items allow."""


def use_bfloat16(precision: str) -> bool:
    """Whether to multiply in bfloat16: as named, or `auto`, where the processor has it."""
    if precision != "auto":
        return precision == "bfloat16"
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def planned_towers(
    train: Interactions,
    settings: Settings,
    held_back: NDArray[np.int64],
    warm_start: Path | None,
) -> TowerJob:
    """The job of training the towers, without the events `held_back`.

    Raises:
        DataError: there is nothing to learn from.
    """
    settings = adapted(settings, train)
    towers, negative_kinds = settings.train.towers, settings.events.negative_kinds
    if warm_start is not None:
        towers = warm_towers(of_shape(towers, warm_start)[0], settings.train.warm)
    is_held_back = np.zeros(len(train), dtype=bool)
    is_held_back[held_back] = True
    sequences = training_sequences(train, negative_kinds, is_held_back)
    n_targets = int(sequences.is_target.sum())
    if not n_targets:
        raise DataError(
            f"{n_targets} engagements to learn from, expected at least 1: of {len(train)} there "
            f"are {len(held_back)} kept for the scorer, the rest are repeats or of a negative kind "
            f"({', '.join(negative_kinds)}); import more history, or change events.negative_kinds"
        )
    learned = np.bincount(train.rows[sequences.is_target], minlength=train.n_items)
    facts = JobFacts(
        run_key=_run_key(train, settings, towers, warm_start),
        checkpoint_key=_run_key(train, settings, towers, warm_start, _RATE_SETTINGS),
        config=_config(train, towers),
        settings=towers,
        seed=settings.train.seed,
        use_bfloat16=use_bfloat16(settings.train.precision),
        n_threads=settings.train.n_threads,
        checkpoint_every_s=settings.train.checkpoint_every_s,
        item_ids=tuple(item.item_id for item in train.items) if warm_start else (),
        warm_start=str(warm_start) if warm_start else None,
        warm_rate_share=settings.train.warm.rate_share if warm_start else None,
    )
    content = content_matrix(train.items, towers.n_content_buckets)
    # Not from stable's weights: the newest events are largely reactions to what stable showed, and
    # every step away from it would look like a loss.
    watched = np.zeros(0, np.int64)
    if warm_start is None:
        watched = _watched(train, held_back, negative_kinds, settings.train.seed)
    return TowerJob(facts, sequences, content, learned > 0, watched)


def _config(train: Interactions, towers: TowerSettings) -> TowerConfig:
    return TowerConfig(
        n_items=train.n_items,
        embedding_dim=towers.embedding_dim,
        n_layers=towers.n_layers,
        n_heads=towers.n_heads,
        history_length=towers.history_length,
        kinds=train.kinds,
        n_content_buckets=towers.n_content_buckets,
        dropout=towers.dropout or 0.0,
    )


def _watched(
    train: Interactions, held_back: NDArray[np.int64], negative_kinds: Sequence[str], seed: int
) -> NDArray[np.int64]:
    """Some of the events kept for the scorer, ascending, to watch the towers by."""
    negative = [i for i, kind in enumerate(train.kinds) if kind in set(negative_kinds)]
    wanted = held_back[~np.isin(train.kind_ids[held_back], negative)]
    most = min(_MAX_WATCHED, max(_WATCHED_SCORES // max(train.n_items, 1), _LEAST_WATCHED))
    if len(wanted) > most:
        rng = np.random.default_rng((seed, 5))
        wanted = np.sort(rng.choice(wanted, most, replace=False))
    return wanted


def _run_key(
    train: Interactions,
    settings: Settings,
    towers: TowerSettings,
    warm_start: Path | None,
    without: Mapping[str, Any] | None = None,
) -> str:
    digest = hashlib.sha256()
    for array in (train.offsets, train.rows, train.kind_ids, train.timestamps_ms):
        digest.update(np.ascontiguousarray(array).tobytes())
    for item in train.items:
        digest.update(repr(item).encode())
    taken = settings.train.model_copy(update={"towers": towers})
    facts = {
        "data": digest.hexdigest(),
        "kinds": train.kinds,
        "train": taken.model_dump(include=_TOWER_SETTINGS, exclude=dict(without or {})),
        "negative_kinds": settings.events.negative_kinds,
        "warm_start": os.fspath(warm_start) if warm_start else None,
    }
    return run_key(facts)
