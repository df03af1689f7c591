"""The tower loop: it learns, resumes where it was, and splits over workers without a difference."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.learning_settings import TowerSettings
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder
from train_app.learning.checkpoints import CheckpointFolder
from train_app.learning.towers.sequence_batches import Sequences
from train_app.learning.towers.train_towers import (
    Peers,
    TowerProgress,
    TowerRun,
    TowerTrainer,
    hidden_rows,
    rate_share,
)

N_ITEMS, LENGTH = 20, 6
FAST = TowerSettings(
    embedding_dim=16,
    n_layers=1,
    n_heads=2,
    history_length=LENGTH,
    dropout=0.0,
    n_negatives=0,
    batch_size=8,
    learning_rate=0.01,
    epochs=4,
    max_minutes=60,
    id_dropout=0.1,
)


def cycles(n_users: int = 48, size: int = 14) -> Sequences:
    """Users who walk round the items one by one: the next item follows from the last."""
    starts = np.arange(n_users) * 7
    rows = (starts[:, None] + np.arange(size)) % N_ITEMS
    n_events = rows.size
    return Sequences(
        np.arange(n_users + 1, dtype=np.int64) * size,
        rows.reshape(-1).astype(np.int32),
        np.full(n_events, 2, np.uint8),
        np.ones(n_events, np.uint8),
        np.ones(n_events, bool),
    )


def a_trainer(
    settings: TowerSettings = FAST,
    peers: Peers | None = None,
    clock_s: Callable[[], float] = lambda: 0.0,
) -> TowerTrainer:
    """A trainer of the cycles, from the same start each time."""
    torch.manual_seed(0)
    config = TowerConfig(N_ITEMS, 16, 1, 2, LENGTH, ("view",), 8, settings.dropout or 0.0)
    content = np.full((N_ITEMS, 1), -1, dtype=np.int32)
    model = TwoTower(config, content, np.ones(N_ITEMS, dtype=bool))
    run = TowerRun(cycles(), settings, 0, use_bfloat16=False, peers=peers or Peers())
    return TowerTrainer(model, run, clock_s)


def finish(trainer: TowerTrainer) -> list[TowerProgress]:
    """Train to the end."""
    return list(trainer.train())


def weights(trainer: TowerTrainer) -> list[np.ndarray]:
    """All parameters."""
    return [parameter.detach().numpy().copy() for parameter in trainer.model.parameters()]


def test_towers_learn_which_item_follows() -> None:
    """On walks round a circle, the next item is ranked first."""
    trainer = a_trainer(FAST.model_copy(update={"epochs": 12}))
    progress = finish(trainer)
    assert progress[-1].loss < progress[0].loss / 2
    assert progress[-1].share_done == 1.0
    model = trainer.model.eval()
    items = np.full((N_ITEMS, LENGTH), -1, dtype=np.int32)
    items[:, -3:] = (np.arange(N_ITEMS)[:, None] + np.arange(3)) % N_ITEMS
    batch = {
        "items": items,
        "kinds": np.where(items >= 0, 2, 0).astype(np.uint8),
        "ages_s": np.zeros(items.shape, np.float32),
    }
    scores = UserEncoder.of(model).encode(batch) @ model.item_vectors().T
    assert (scores.argmax(1) == (np.arange(N_ITEMS) + 3) % N_ITEMS).mean() > 0.9


def test_the_same_seed_gives_the_same_towers() -> None:
    """Bit for bit, dropout included."""
    settings = FAST.model_copy(update={"dropout": 0.3, "n_negatives": 8, "epochs": 1})
    first, second = a_trainer(settings), a_trainer(settings)
    finish(first)
    finish(second)
    for ours, theirs in zip(weights(first), weights(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    """From a checkpoint on disk, in the middle of an epoch."""
    settings = FAST.model_copy(update={"dropout": 0.3, "epochs": 2})
    whole, killed, resumed = (a_trainer(settings) for _ in range(3))
    n_steps = len(finish(whole))
    for _ in itertools.islice(killed.train(), n_steps // 2 + 1):
        pass
    folder = CheckpointFolder(tmp_path, "run")
    folder.write(killed.checkpoint())
    newest = folder.newest()
    assert newest is not None
    resumed.resume(newest)
    assert len(finish(resumed)) == n_steps - n_steps // 2 - 1
    for ours, theirs in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    whole.average.adopt()
    resumed.average.adopt()
    for ours, theirs in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_two_workers_learn_what_one_does() -> None:
    """Each takes half of every batch; the summed gradients are those of the whole batch."""
    alone = a_trainer(FAST.model_copy(update={"epochs": 1}))
    finish(alone)
    barrier, shared = threading.Barrier(2, timeout=60), [torch.empty(0), torch.empty(0)]

    def sum_of(rank: int) -> Callable[[Tensor], None]:
        def sum_across(tensor: Tensor) -> None:
            shared[rank] = tensor.clone()
            barrier.wait()
            tensor.copy_(shared[0] + shared[1])
            barrier.wait()

        return sum_across

    settings = FAST.model_copy(update={"epochs": 1})
    pair = [a_trainer(settings, Peers(rank, 2, sum_of(rank))) for rank in (0, 1)]
    threads = [threading.Thread(target=finish, args=(trainer,)) for trainer in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for ours, others, theirs in zip(*map(weights, (*pair, alone)), strict=True):
        np.testing.assert_array_equal(ours, others)
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_minutes_end_the_run_with_a_decayed_rate() -> None:
    """The schedule follows the clock where that is faster than the epochs."""
    seconds = itertools.count(step=2.0)
    settings = FAST.model_copy(update={"epochs": 1000, "max_minutes": 1.0})
    progress = finish(a_trainer(settings, clock_s=lambda: next(seconds)))
    assert 25 <= len(progress) <= 35
    assert progress[-1].share_done == 1.0
    assert progress[-1].epoch < 1000


def test_the_rate_warms_up_and_decays() -> None:
    """Small at the first step, whole after the warm-up, nearly nothing at the end."""
    assert rate_share(0.0, 0) < 0.02
    assert rate_share(0.0, 200) == 1.0
    assert rate_share(0.5, 10_000) < rate_share(0.3, 10_000)
    assert rate_share(1.0, 10_000) < 0.03


def test_an_item_without_content_is_never_hidden() -> None:
    """Nothing could do in its id's place, so hiding it would only be noise."""
    hiding, plain = (
        a_trainer(FAST.model_copy(update={"id_dropout": share, "epochs": 1})) for share in (0.9, 0)
    )
    assert not hiding.model.item.has_content
    finish(hiding)
    finish(plain)
    for ours, theirs in zip(weights(hiding), weights(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_wanted_share_of_ids_is_hidden_and_others_in_each_step() -> None:
    """Whatever rows a worker asks for, a row is hidden or not by its step alone."""
    rows = np.arange(10_000)
    first, second = hidden_rows(rows, 1, 0.1), hidden_rows(rows, 2, 0.1)
    assert 0.08 < first.mean() < 0.12
    assert (first & second).mean() < 0.03
    np.testing.assert_array_equal(hidden_rows(rows[::7], 1, 0.1), first[::7])
    assert not hidden_rows(rows, 1, 0.0).any()
