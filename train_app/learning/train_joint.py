"""Trains the models of a bundle: both towers, then the scorer on what they retrieve.

Writes the tower and scorer files into a folder and is their only writer. A run that was killed
goes on where it was when the same inputs come again. Knows nothing of bundles or of evaluation.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.errors import FleetError
from recsys.learning_settings import TrainSettings
from recsys.scorer import item_popularity, save_scorer
from recsys.settings import Settings
from recsys.tower_networks import TwoTower
from recsys.two_tower import UserEncoder, save_towers
from train_app.examples.interactions import Interactions
from train_app.learning.divergence import TrainingDiverged
from train_app.learning.page.joint_step import train_jointly
from train_app.learning.page.train_page import Pair
from train_app.learning.ranking.count_successors import count_successors
from train_app.learning.ranking.label_free_counts import label_free, label_free_counts
from train_app.learning.ranking.scorer_examples import (
    collect_examples,
    held_back_events,
    kept_aside,
)
from train_app.learning.ranking.train_scorer import train_scorer
from train_app.learning.slates.scorer_slates import ShownExamples, slate_examples, without_prompts
from train_app.learning.slates.shown_slates import load_shown_slates, no_slates
from train_app.learning.towers.adapted_settings import adapted
from train_app.learning.towers.catch_up import catch_up_job
from train_app.learning.towers.fit_shrinkage import shrink_states
from train_app.learning.towers.planned_towers import planned_towers
from train_app.learning.towers.tower_job import TowerJob, TrainedTowers, run_tower_job
from train_app.learning.towers.train_on_ray import train_on_ray
from train_app.learning.towers.train_towers import Peers
from train_app.learning.warm_start import (
    learned_until_ms,
    warm_scorer,
)

METRICS_FILE = "training.json"
"""What was measured while training, beside the model files."""
_TOWERS_LABEL = "training the towers"
_SCORER_LABEL = "training the scorer"
_PAGE_LABEL = "training both together"
_CATCH_UP_LABEL = "catching up with the newest"

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
    since_ms = None if warm_start is None else learned_until_ms(warm_start)
    held_back = held_back_events(train, rng, since_ms)
    job = planned_towers(train, settings, held_back, warm_start)
    report(_TOWERS_LABEL, 0.0)
    trained = _towers(job, settings.train, run_dir, partial(report, _TOWERS_LABEL))
    report(_TOWERS_LABEL, 1.0)
    shrinkage = _shrink(train, held_back, trained.model, settings)
    save_towers(trained.model, workdir)
    scorer_metrics = _train_scorer(
        train, settings, held_back, trained.model, workdir, warm_start, report
    )
    last_metrics = catch_up(job, train, settings, workdir, run_dir, report)
    document = json.dumps(
        {**trained.metrics, **shrinkage, **scorer_metrics, **last_metrics}, indent=1
    )
    (workdir / METRICS_FILE).write_text(document + "\n")
    shutil.rmtree(run_dir)


def _shrink(
    train: Interactions, held_back: NDArray[np.int64], model: TwoTower, settings: Settings
) -> dict[str, float]:
    """Draw the states of users together, as far as the events say that the scorer learns from."""
    taught = held_back[~kept_aside(train, held_back)]
    if not settings.train.towers.shrink:
        taught = taught[:0]
    rng = np.random.default_rng((settings.train.seed, 5))
    return shrink_states(train, taught, model, rng)


def catch_up(
    job: TowerJob,
    train: Interactions,
    settings: Settings,
    models: Path,
    run_dir: Path,
    report: Report,
) -> dict[str, float]:
    """Let the towers in `models` learn what was kept for the scorer too, where that is on.

    Towers that diverge here stay as they were.

    Raises:
        FleetError: Ray could not train.
    """
    last_pass = catch_up_job(job, train, settings, models)
    if last_pass is None:
        return {}
    report(_CATCH_UP_LABEL, 0.0)
    try:
        trained = _towers(last_pass, settings.train, run_dir, partial(report, _CATCH_UP_LABEL))
    except TrainingDiverged:
        report(_CATCH_UP_LABEL, 1.0)
        return {"catch_up_diverged": 1.0}
    report(_CATCH_UP_LABEL, 1.0)
    save_towers(trained.model, models)
    told = {"tower_steps": "catch_up_steps", "tower_loss": "catch_up_loss"}
    return {told[name]: value for name, value in trained.metrics.items() if name in told}


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
    # The last pass has a folder of its own: writing one clears what another run left there.
    checkpoint_dir = run_dir if job.facts.go_on_from is None else job_dir / "checkpoints"
    if settings.n_workers == 0:
        trained = run_tower_job(job, checkpoint_dir, Peers(), time.monotonic, report)
        trained.save(job_dir)
        return trained
    job.save(job_dir)
    train_on_ray(job_dir, checkpoint_dir, settings.n_workers, report)
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
    is_free = label_free(train, held_back)
    successors = None
    if settings.train.scorer.successors:
        successors = count_successors(train, is_free, settings.events.negative_kinds)
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
        item_popularity(label_free_counts(train, is_free)),
        scorer_settings,
        settings.train.seed,
        time.monotonic,
        lambda share, _: report(_SCORER_LABEL, share),
        warm_start,
        settings.train.warm.rate_share if warm_start else None,
        shown,
        successors,
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
