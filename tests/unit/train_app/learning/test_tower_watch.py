"""Watching towers in training: a right measure, worse weights given back, resumed alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder
from recsys.types import Batch
from train_app.learning.towers.sequence_batches import Sequences
from train_app.learning.towers.tower_watch import LOOKS, TowerWatch, ndcg_at

N_ITEMS, LENGTH = 30, 5


def histories(n_users: int = 6, size: int = 9) -> Sequences:
    """Users with items of their own order, some of them longer than the model reads."""
    rng = np.random.default_rng(3)
    rows = np.concatenate([rng.permutation(N_ITEMS)[:size] for _ in range(n_users)])
    kinds = rng.integers(2, 4, rows.size)
    gaps = rng.integers(1, 5, rows.size)
    return Sequences(
        np.arange(n_users + 1, dtype=np.int64) * size,
        rows.astype(np.int32),
        kinds.astype(np.uint8),
        gaps.astype(np.uint8),
        np.ones(rows.size, bool),
    )


def a_model(seed: int = 0) -> TwoTower:
    """Towers with random weights, large enough that the history decides."""
    torch.manual_seed(seed)
    config = TowerConfig(N_ITEMS, 8, 1, 2, LENGTH, ("view", "like"), 8, 0.3)
    content = np.full((N_ITEMS, 1), -1, np.int32)
    model = TwoTower(config, content, np.ones(N_ITEMS, bool))
    with torch.no_grad():
        model.item.ids.normal_()
    return model.train()


def watch_of(scores: list[list[float]], monkeypatch: pytest.MonkeyPatch) -> TowerWatch:
    """A watch that measures what it is given, look after look."""
    given = iter(scores)
    monkeypatch.setattr(
        "train_app.learning.towers.tower_watch.ndcg_at",
        lambda model, sequences, moments: np.asarray(next(given), np.float32),
    )
    return TowerWatch(histories(), np.arange(4))


def test_the_measure_is_the_ndcg_of_exact_retrieval() -> None:
    """Equal to encoding each history with the serving encoder and sorting all unseen items."""
    model, sequences = a_model(), histories()
    moments = np.array([0, 3, 8, 9, 17, 30, 53])
    found = ndcg_at(model, sequences, moments)
    assert model.training
    model.eval()
    encoder, vectors = UserEncoder.of(model), model.item_vectors()
    for moment, ndcg in zip(moments.tolist(), found.tolist(), strict=True):
        begin = moment - moment % 9
        start = max(begin, moment - LENGTH)
        seen = sequences.rows[begin:moment]
        bounds = np.array([np.nan, 200.0, 1000.0, 10_000.0, 100_000.0])
        gaps_s = bounds[sequences.gaps[start:moment]]
        gaps_s[:1] = np.nan
        ages_s = -np.cumsum(np.nan_to_num(gaps_s)) + 1e6
        batch: Batch = {
            "items": sequences.rows[start:moment][None],
            "kinds": sequences.kinds[start:moment][None],
            "ages_s": ages_s[None].astype(np.float32),
        }
        scores = (encoder.encode(batch) @ vectors.T)[0]
        scores[seen] = -np.inf
        rank = 1 + int((scores > scores[sequences.rows[moment]]).sum())
        assert ndcg == pytest.approx(1 / np.log2(rank + 1) if rank <= 10 else 0.0, abs=1e-6)


def test_towers_that_lost_themselves_measure_nothing() -> None:
    """Neither what is no number nor what makes all items alike looks like the best of all."""
    moments = np.array([3, 8, 17])
    for value in (float("nan"), 0.5):
        model = a_model()
        with torch.no_grad():
            model.item.ids.fill_(value)
        assert ndcg_at(model, histories(), moments).max() == 0.0


def test_it_looks_at_every_twentieth_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every step, and not twice at the same place."""
    watch, model = watch_of([[1, 0, 0, 1]], monkeypatch), a_model()
    assert not watch.look(model, 0.5 / LOOKS)
    assert watch.keep_best(model) == {}
    assert not watch.look(model, 1.0 / LOOKS)
    assert not watch.look(model, 1.5 / LOOKS)
    assert watch.keep_best(model)["tower_ndcg@10"] == 0.5


def test_training_that_only_gets_worse_ends_and_gives_the_best_weights_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three looks in a row far below the best."""
    worse = [0.1, 0.1, 0.1, 0.1]
    watch = watch_of([[0.9, 0.8, 0.9, 0.8], worse, worse, worse], monkeypatch)
    model = a_model()
    assert not watch.look(model, 1 / LOOKS)
    best = model.item.ids.detach().clone()
    with torch.no_grad():
        model.item.ids.add_(1.0)
    ends = [watch.look(model, look / LOOKS) for look in (2, 3, 4)]
    assert ends == [False, False, True]
    assert watch.keep_best(model)["tower_overfitted"] == 1.0
    torch.testing.assert_close(model.item.ids.detach(), best)


def test_a_drop_that_chance_explains_keeps_the_last_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One moment of many lost as much as another won."""
    watch = watch_of([[1, 0, 1, 1], [0, 1, 1, 0.9]], monkeypatch)
    model = a_model()
    watch.look(model, 1 / LOOKS)
    with torch.no_grad():
        model.item.ids.add_(1.0)
    last = model.item.ids.detach().clone()
    assert not watch.look(model, 2 / LOOKS)
    assert watch.keep_best(model)["tower_overfitted"] == 0.0
    torch.testing.assert_close(model.item.ids.detach(), last)


def test_a_small_loss_does_not_end_training_and_yet_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rate has not fallen yet; if it does not come back, the best weights do."""
    slightly = [0.85, 0.75, 0.85, 0.75]
    watch = watch_of([[0.9, 0.8, 0.9, 0.8], *[slightly] * 4], monkeypatch)
    model = a_model()
    assert not any(watch.look(model, look / LOOKS) for look in (1, 2, 3, 4, 5))
    assert watch.keep_best(model)["tower_overfitted"] == 1.0


def test_a_resumed_watch_knows_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint holds is enough to go on alike."""
    worse = [0.1, 0.1, 0.1, 0.1]
    watch, model = watch_of([[0.9, 0.8, 0.9, 0.8], worse, worse, worse], monkeypatch), a_model()
    watch.look(model, 1 / LOOKS)
    watch.look(model, 2 / LOOKS)
    resumed = TowerWatch(histories(), np.arange(4))
    resumed.resume(*watch.state())
    best = model.item.ids.detach().clone()
    with torch.no_grad():
        model.item.ids.add_(1.0)
    assert not resumed.look(model, 2 / LOOKS)
    assert not resumed.look(model, 3 / LOOKS)
    assert resumed.look(model, 4 / LOOKS)
    assert resumed.keep_best(model)["tower_overfitted"] == 1.0
    torch.testing.assert_close(model.item.ids.detach(), best)


def test_other_workers_are_told_what_one_measured() -> None:
    """A worker that does not measure decides on the same figures."""
    sums: list[torch.Tensor] = []
    first = TowerWatch(histories(), np.array([3, 12]), tell=lambda t: sums.append(t.clone()))
    first.look(a_model(), 0.5)

    def add_measured(tensor: torch.Tensor) -> None:
        tensor.add_(sums[0])

    second = TowerWatch(histories(), np.array([3, 12]), measures=False, tell=add_measured)
    second.look(a_model(), 0.5)
    assert first.keep_best(a_model()) == second.keep_best(a_model())


def test_without_moments_nothing_is_watched() -> None:
    """A training with nothing to watch by runs its schedule."""
    watch, model = TowerWatch(histories(), np.zeros(0, np.int64)), a_model()
    assert not watch.look(model, 1.0)
    assert watch.state() == ({}, {})
    assert watch.keep_best(model) == {}
