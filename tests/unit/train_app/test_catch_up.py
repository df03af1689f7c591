"""The last pass: the towers learn what was kept for the scorer, and only then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.learning_settings import ScorerSettings, TowerSettings, TrainSettings
from recsys.settings import Settings
from recsys.two_tower import load_towers
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.catch_up import catch_up_job
from train_app.learning.scorer_examples import held_back_events
from train_app.learning.sequence_batches import training_sequences
from train_app.learning.tower_watch import ndcg_at
from train_app.learning.train_joint import planned_towers, train_models

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
    return Settings(data_dir=tmp_path, train=TrainSettings(towers=chosen, scorer=scorer))


def held_back_of(train: Interactions, settings: Settings) -> np.ndarray:
    """The events that a training keeps for the scorer."""
    return held_back_events(train, np.random.default_rng((settings.train.seed, 0)))


def test_it_learns_everything_for_a_share_of_the_schedule_at_a_low_rate(tmp_path: Path) -> None:
    """Targets are those of all events; epochs, steps and minutes shrink alike."""
    settings = settings_with(tmp_path, catch_up=0.25, max_steps=10, max_minutes=8.0)
    train = walks()
    job = planned_towers(train, settings, held_back_of(train, settings), None)
    last = catch_up_job(job, train, settings, tmp_path)
    assert last is not None
    everything = training_sequences(train, settings.events.negative_kinds).is_target
    np.testing.assert_array_equal(last.sequences.is_target, everything)
    assert everything.sum() > job.sequences.is_target.sum()
    shorter = last.facts.settings
    assert (shorter.epochs, shorter.max_steps, shorter.max_minutes) == (1, 3, 2.0)
    assert shorter.learning_rate == pytest.approx(0.1 * settings.train.towers.learning_rate)
    assert last.facts.run_key != job.facts.run_key
    assert not len(last.watched)


def test_there_is_no_last_pass_where_it_is_off_or_nothing_was_kept(tmp_path: Path) -> None:
    """Then the towers stay as they were trained."""
    train = walks()
    off = settings_with(tmp_path, catch_up=0.0)
    job = planned_towers(train, off, held_back_of(train, off), None)
    assert catch_up_job(job, train, off, tmp_path) is None
    on = settings_with(tmp_path, catch_up=0.5)
    whole = planned_towers(train, on, np.zeros(0, np.int64), None)
    assert catch_up_job(whole, train, on, tmp_path) is None


def test_the_towers_that_are_left_know_the_newest_events_better(tmp_path: Path) -> None:
    """The same training with and without the pass, judged at what was kept back."""
    train = walks()
    found = {}
    for share in (0.0, 1.0):
        settings = settings_with(tmp_path, catch_up=share, dropout=0.0)
        workdir = tmp_path / str(share)
        train_models(
            train, settings, workdir, warm_start=None, report=lambda label, share_done: None
        )
        kept = held_back_of(train, settings)
        sequences = training_sequences(train, settings.events.negative_kinds)
        found[share] = float(ndcg_at(load_towers(workdir).eval(), sequences, kept).mean())
        assert not (workdir / "checkpoints").exists()
    assert found[1.0] > found[0.0]
