"""The last pass: the towers learn what was kept for the scorer, and only then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.learning_settings import ScorerSettings, TowerSettings, TrainSettings
from recsys.settings import Settings
from recsys.tower_networks import TwoTower
from recsys.two_tower import load_towers, save_towers
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.ranking.scorer_examples import held_back_events
from train_app.learning.towers.catch_up import catch_up_job, near_kept
from train_app.learning.towers.planned_towers import planned_towers
from train_app.learning.towers.sequence_batches import training_sequences
from train_app.learning.towers.tower_job import TowerJob
from train_app.learning.towers.tower_watch import ndcg_at
from train_app.learning.towers.train_towers import TowerTrainer
from train_app.learning.train_joint import train_models

N_USERS, SIZE, N_ITEMS = 40, 20, 30


def walks() -> Interactions:
    """Users who walk round the items, each from another place, in one minute steps."""
    steps = np.arange(SIZE)
    rows = (np.arange(N_USERS)[:, None] * 7 + steps) % N_ITEMS
    users = np.repeat([f"u{user}" for user in range(N_USERS)], SIZE)
    return interactions_from_columns(
        users.tolist(),
        [f"i{row}" for row in rows.reshape(-1)],
        ["view"] * rows.size,
        np.tile(steps * 60_000, N_USERS),
    )


def settings_with(tmp_path: Path, **towers: object) -> Settings:
    """Small towers that train in a moment."""
    chosen = TowerSettings(
        embedding_dim=16, n_layers=1, history_length=8, batch_size=8, epochs=4, max_minutes=0
    ).model_copy(update=towers)
    scorer = ScorerSettings(epochs=1, hidden_dims=(8,))
    return Settings(
        data_dir=tmp_path, train=TrainSettings(n_threads=1, towers=chosen, scorer=scorer)
    )


def some_towers(job: TowerJob, directory: Path, seed: int = 0) -> None:
    """Towers of the job's shape, as a training leaves them."""
    torch.manual_seed(seed)
    save_towers(TwoTower(job.facts.config, job.content, job.is_known), directory)


def held_back_of(train: Interactions, settings: Settings) -> np.ndarray:
    """The events that a training keeps for the scorer."""
    return held_back_events(train, np.random.default_rng((settings.train.seed, 0)))


def test_it_learns_everything_for_a_share_of_the_schedule_at_a_low_rate(tmp_path: Path) -> None:
    """Its targets are each user's newest events; epochs, steps and minutes shrink alike."""
    settings = settings_with(tmp_path, catch_up=0.25, max_steps=10, max_minutes=8.0)
    train = walks()
    job = planned_towers(train, settings, held_back_of(train, settings), None)
    some_towers(job, tmp_path)
    last = catch_up_job(job, train, settings, tmp_path)
    assert last is not None
    everything = training_sequences(train, settings.events.negative_kinds).is_target
    newest = np.tile(np.arange(SIZE) >= SIZE - settings.train.towers.history_length, N_USERS)
    np.testing.assert_array_equal(last.sequences.is_target, everything & newest)
    assert not job.sequences.is_target[last.sequences.is_target].all()
    shorter = last.facts.settings
    assert (shorter.epochs, shorter.max_steps, shorter.max_minutes) == (1, 3, 2.0)
    assert shorter.learning_rate == pytest.approx(0.1 * settings.train.towers.learning_rate)
    assert last.facts.run_key != job.facts.run_key
    assert not len(last.watched)


def test_towers_that_changed_are_another_pass(tmp_path: Path) -> None:
    """It never goes on from the checkpoint of a pass that began with other towers."""
    settings, train = settings_with(tmp_path, catch_up=0.25), walks()
    job = planned_towers(train, settings, held_back_of(train, settings), None)
    keys = set()
    for seed in (0, 1, 1):
        some_towers(job, tmp_path, seed)
        last = catch_up_job(job, train, settings, tmp_path)
        assert last is not None
        keys.add(last.facts.run_key)
    assert len(keys) == 2


def test_users_without_anything_kept_are_left_out() -> None:
    """The pass is of those whose newest events are news to the towers."""
    train = walks()
    sequences = training_sequences(train, ())
    is_kept = np.zeros(len(train), bool)
    is_kept[[SIZE - 1, 3 * SIZE - 2]] = True
    found = near_kept(sequences, is_kept, 4).reshape(N_USERS, SIZE)
    assert found[[0, 2], -4:].all()
    assert found.sum() == 8


def test_a_pass_that_diverges_leaves_the_towers_that_were_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is whole without it, and its report says so."""
    settings, train = settings_with(tmp_path, catch_up=0.5, max_steps=8), walks()
    loss = TowerTrainer._loss

    def lost(self: TowerTrainer, *given: Any) -> Tensor:
        is_last_pass = self._run.settings.learning_rate < settings.train.towers.learning_rate
        return loss(self, *given) * (float("nan") if is_last_pass else 1.0)

    monkeypatch.setattr(TowerTrainer, "_loss", lost)
    train_models(train, settings, tmp_path, warm_start=None, report=lambda label, share: None)
    measured = json.loads((tmp_path / "training.json").read_text())
    assert measured["catch_up_diverged"] == 1.0
    assert np.isfinite(load_towers(tmp_path).item_vectors()).all()


def test_there_is_no_last_pass_where_it_is_off_or_nothing_was_kept(tmp_path: Path) -> None:
    """Then the towers stay as they were trained."""
    train = walks()
    off = settings_with(tmp_path, catch_up=0.0)
    job = planned_towers(train, off, held_back_of(train, off), None)
    assert catch_up_job(job, train, off, tmp_path) is None
    on = settings_with(tmp_path, catch_up=0.5)
    whole = planned_towers(train, on, np.zeros(0, np.int64), None)
    assert catch_up_job(whole, train, on, tmp_path) is None


def test_the_pass_predicts_what_comes_after_the_newest_events_better(tmp_path: Path) -> None:
    """The same training with and without it, judged by an event that neither has seen.

    Each user's last steps leave the circle for another one: only who learns the newest events can
    know the way on.
    """
    steps = np.arange(SIZE + 1)
    rows = (np.arange(N_USERS)[:, None] * 7 + steps) % N_ITEMS
    rows[:, -4:] = N_ITEMS + (rows[:, -4:] % 8)
    whole = interactions_from_columns(
        np.repeat([f"u{user}" for user in range(N_USERS)], SIZE + 1).tolist(),
        [f"i{row:02}" for row in rows.reshape(-1)],
        ["view"] * rows.size,
        np.tile(steps * 60_000, N_USERS),
    )
    last = np.arange(N_USERS) * (SIZE + 1) + SIZE
    is_known = np.ones(len(whole), bool)
    is_known[last] = False
    train = whole.select(is_known)
    sequences = training_sequences(whole, ())
    found = {}
    for share in (0.0, 1.0):
        settings = settings_with(tmp_path, catch_up=share, dropout=0.0, max_steps=120)
        workdir = tmp_path / str(share)
        train_models(
            train, settings, workdir, warm_start=None, report=lambda label, share_done: None
        )
        found[share] = float(ndcg_at(load_towers(workdir).eval(), sequences, last).mean())
        assert not (workdir / "checkpoints").exists()
    assert found[1.0] > found[0.0]
