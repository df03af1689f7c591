"""Trains the models of a bundle: both towers, then the scorer on what they retrieve.

Writes the tower and scorer files into a folder and is their only writer. A run that was killed
goes on where it was when the same inputs come again. Knows nothing of bundles or of evaluation.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.errors import DataError, FleetError
from recsys.features import content_matrix
from recsys.learning_settings import TowerSettings, TrainSettings
from recsys.scorer import item_popularity, save_scorer
from recsys.settings import Settings
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder, save_towers
from train_app.examples.interactions import Interactions
from train_app.learning.adapted_settings import adapted
from train_app.learning.catch_up import catch_up_job
from train_app.learning.checkpoints import run_key
from train_app.learning.label_free_counts import label_free_counts
from train_app.learning.page.joint_step import train_jointly
from train_app.learning.page.train_page import Pair
from train_app.learning.scorer_examples import collect_examples, held_back_events, kept_aside
from train_app.learning.sequence_batches import training_sequences
from train_app.learning.slates.scorer_slates import ShownExamples, slate_examples, without_prompts
from train_app.learning.slates.shown_slates import load_shown_slates, no_slates
from train_app.learning.tower_job import JobFacts, TowerJob, TrainedTowers, run_tower_job
from train_app.learning.train_on_ray import train_on_ray
from train_app.learning.train_scorer import train_scorer
from train_app.learning.train_towers import Peers
from train_app.learning.warm_start import of_shape, warm_scorer, warm_towers

METRICS_FILE = "training.json"
"""What was measured while training, beside the model files."""
_TOWERS_LABEL = "training the towers"
_SCORER_LABEL = "training the scorer"
_PAGE_LABEL = "training both together"
_CATCH_UP_LABEL = "catching up with the newest"
_MAX_WATCHED = 1_000
_TOWER_SETTINGS = {"seed", "towers", "precision"}
"""Settings that change what the towers learn: with any other, a run that ended is not resumed."""
_RATE_SETTINGS = {"towers": {"learning_rate"}, "precision": True}
"""Settings that mend a training that diverged: it goes on from its checkpoints with others."""

Report = Callable[[str, float], None]


def train_models(
    train: Interactions,
    settings: Settings,
    workdir: Path,
    *,
    warm_start: Path | None,
    report: Report,
) -> None:
    """Train towers and scorer and write their files into `workdir`.

    Args:
        workdir: also holds the run's checkpoints until it ends; every worker must see it.
        warm_start: a bundle directory to start from.
        report: called with what is being done and the share of it that is done.

    Raises:
        BundleError: the bundle of the warm start cannot be read.
        DataError: there is nothing to learn from.
        FleetError: Ray could not train.
        TrainingDiverged: a loss or gradient is not finite; checkpoints stay, to go on from.
    """
    run_dir = workdir / "checkpoints"
    run_dir.mkdir(parents=True, exist_ok=True)
    settings = adapted(settings, train)
    rng = np.random.default_rng((settings.train.seed, 0))
    held_back = held_back_events(train, rng)
    job = planned_towers(train, settings, held_back, warm_start)
    report(_TOWERS_LABEL, 0.0)
    trained = _towers(job, settings.train, run_dir, partial(report, _TOWERS_LABEL))
    report(_TOWERS_LABEL, 1.0)
    save_towers(trained.model, workdir)
    scorer_metrics = _train_scorer(
        train, settings, held_back, trained.model, workdir, warm_start, report
    )
    catch_up(job, train, settings, workdir, run_dir, report)
    document = json.dumps({**trained.metrics, **scorer_metrics}, indent=1)
    (workdir / METRICS_FILE).write_text(document + "\n")
    shutil.rmtree(run_dir)


def catch_up(
    job: TowerJob,
    train: Interactions,
    settings: Settings,
    models: Path,
    run_dir: Path,
    report: Report,
) -> None:
    """Let the towers in `models` learn what was kept for the scorer too, where that is on.

    Raises:
        FleetError: Ray could not train.
        TrainingDiverged: a loss or gradient is not finite.
    """
    last_pass = catch_up_job(job, train, settings, models)
    if last_pass is None:
        return
    report(_CATCH_UP_LABEL, 0.0)
    trained = _towers(last_pass, settings.train, run_dir, partial(report, _CATCH_UP_LABEL))
    report(_CATCH_UP_LABEL, 1.0)
    save_towers(trained.model, models)


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
    config = TowerConfig(
        n_items=train.n_items,
        embedding_dim=towers.embedding_dim,
        n_layers=towers.n_layers,
        n_heads=towers.n_heads,
        history_length=towers.history_length,
        kinds=train.kinds,
        n_content_buckets=towers.n_content_buckets,
        dropout=towers.dropout or 0.0,
    )
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
        config=config,
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
    watched = _watched(train, held_back, negative_kinds, settings.train.seed)
    return TowerJob(facts, sequences, content, learned > 0, watched)


def _watched(
    train: Interactions, held_back: NDArray[np.int64], negative_kinds: Sequence[str], seed: int
) -> NDArray[np.int64]:
    """Some of the events kept for the scorer, ascending, to watch the towers by."""
    negative = [i for i, kind in enumerate(train.kinds) if kind in set(negative_kinds)]
    wanted = held_back[~np.isin(train.kind_ids[held_back], negative)]
    if len(wanted) > _MAX_WATCHED:
        rng = np.random.default_rng((seed, 5))
        wanted = np.sort(rng.choice(wanted, _MAX_WATCHED, replace=False))
    return wanted


def _towers(
    job: TowerJob, settings: TrainSettings, run_dir: Path, report: Callable[[float], None]
) -> TrainedTowers:
    """The trained towers; those of a run that ended with them, if there was one.

    Raises:
        FleetError: Ray could not train them.
    """
    job_dir = run_dir / job.facts.run_key
    trained = TrainedTowers.load(job_dir)
    if trained is not None:
        return trained
    job_dir.mkdir(parents=True, exist_ok=True)
    if settings.n_workers == 0:
        trained = run_tower_job(job, run_dir, Peers(), time.monotonic, report)
        trained.save(job_dir)
        return trained
    job.save(job_dir)
    train_on_ray(job_dir, run_dir, settings.n_workers, report)
    trained = TrainedTowers.load(job_dir)
    if trained is None:
        raise FleetError(f"Ray workers left no towers in {job_dir}; it must be seen by all of them")
    return trained


def _train_scorer(
    train: Interactions,
    settings: Settings,
    held_back: NDArray[np.int64],
    model: TwoTower,
    workdir: Path,
    warm_start: Path | None,
    report: Report,
) -> dict[str, float]:
    report(_SCORER_LABEL, 0.0)
    vectors = model.item_vectors()
    encoder = UserEncoder.of(model)
    examples = collect_examples(train, held_back, encoder, vectors, settings)
    counts = label_free_counts(train, held_back)
    scorer_settings = settings.train.scorer
    if warm_start is not None:
        scorer_settings = warm_scorer(scorer_settings, settings.train.warm)
    is_kept = kept_aside(train, held_back)
    shown = _shown_examples(train, settings, held_back[~is_kept], encoder)
    if len(shown):
        # A reaction to a slate teaches there, where its position is known, and not here as well.
        is_taught = without_prompts(train, held_back)
        examples, is_kept = examples.pick(np.flatnonzero(is_taught)), is_kept[is_taught]
    fit = train_scorer(
        examples,
        is_kept,
        train.kinds,
        settings.events.negative_kinds,
        vectors,
        item_popularity(counts),
        scorer_settings,
        settings.train.seed,
        time.monotonic,
        lambda share, _: report(_SCORER_LABEL, share),
        warm_start,
        settings.train.warm.rate_share if warm_start else None,
        shown,
    )
    report(_SCORER_LABEL, 1.0)
    pair = Pair(model, fit.scorer)
    joint = train_jointly(train, held_back, pair, settings, partial(report, _PAGE_LABEL))
    if joint.pair is not pair:
        save_towers(joint.pair.model, workdir)
    save_scorer(joint.pair.scorer, workdir)
    return {**fit.metrics, **joint.metrics}


def _shown_examples(
    train: Interactions, settings: Settings, taught: NDArray[np.int64], encoder: UserEncoder
) -> ShownExamples:
    """The logged slates that led to the events the scorer learns from; none where that is off."""
    slates, window_ms = no_slates(), settings.train.label_window_s * 1000
    if settings.train.scorer.position_head and len(taught):
        slates = load_shown_slates(train, taught, settings, window_ms)
    rng = np.random.default_rng((settings.train.seed, 4))
    return slate_examples(train, slates, taught, encoder, window_ms, rng)


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
