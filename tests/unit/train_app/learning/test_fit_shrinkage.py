"""How far user states are drawn together: what is fitted, and what serving does with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import USER_TOWER_FILE, UserEncoder, load_towers, load_user_tower, save_towers
from recsys.types import Batch, FloatArray
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.ranking.scorer_examples import histories_before
from train_app.learning.towers.fit_shrinkage import (
    Alternatives,
    no_choice,
    shrink_states,
    stacked_weights,
)

WIDTH, N_ITEMS, LENGTH = 16, 40, 8


def a_model() -> TwoTower:
    """Untrained towers over forty items."""
    torch.manual_seed(1)
    config = TowerConfig(N_ITEMS, WIDTH, 2, 2, LENGTH, ("click",), 8)
    model = TwoTower(config, np.full((N_ITEMS, 1), -1, np.int32), np.ones(N_ITEMS, np.bool_))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def histories(n: int) -> Batch:
    """Random histories of one to `LENGTH` events."""
    rng = np.random.default_rng(2)
    items = rng.integers(0, N_ITEMS, (n, LENGTH)).astype(np.int32)
    items[np.arange(LENGTH) < rng.integers(0, LENGTH, n)[:, None]] = -1
    return {
        "items": items,
        "kinds": np.where(items >= 0, 2, 0).astype(np.uint8),
        "ages_s": np.where(items >= 0, np.arange(LENGTH)[::-1] * 7200.0, 0.0),
    }


def a_log(n_users: int, n_each: int) -> Interactions:
    """Users who go round the forty items, from where they like."""
    return interactions_from_columns(
        [f"u{user}" for user in range(n_users) for _ in range(n_each)],
        [f"i{(7 * user + place) % N_ITEMS}" for user in range(n_users) for place in range(n_each)],
        ["click"] * (n_users * n_each),
        [place * 1000 for _ in range(n_users) for place in range(n_each)],
    )


def choices(weights: tuple[float, float, float], n_events: int = 4_000) -> Alternatives:
    """Events whose items are drawn by the softmax of the weighted predictions."""
    rng = np.random.default_rng(3)
    states = rng.normal(size=(n_events, 2, WIDTH)).astype(np.float32)
    vectors = rng.normal(size=(N_ITEMS, WIDTH)).astype(np.float32) * 0.5
    common = (vectors @ rng.normal(size=WIDTH)).astype(np.float32)
    others = np.empty((n_events, N_ITEMS, 3), np.float32)
    others[..., :2] = np.moveaxis(states @ vectors.T, 1, 2)
    others[..., 2] = common
    logits = others @ np.array(weights)
    chosen = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    is_own = np.arange(N_ITEMS) == chosen[:, None]
    return Alternatives(others, others[is_own], is_own)


def test_the_weights_that_made_the_choices_are_found() -> None:
    """Enough events tell all three."""
    found = stacked_weights(choices((1.0, 0.5, 0.3)))
    np.testing.assert_allclose(found, [1.0, 0.5, 0.3], atol=0.06)


def test_a_prediction_that_misleads_has_no_weight() -> None:
    """States are drawn towards something or not at all, never pushed away."""
    found = stacked_weights(choices((1.0, -0.6, 0.3)))
    assert found[1] == 0.0
    np.testing.assert_allclose(found[[0, 2]], [1.0, 0.3], atol=0.25)


def test_choices_that_nothing_predicts_have_next_to_no_weight() -> None:
    """Noise does not become knowledge."""
    assert np.abs(stacked_weights(choices((0.0, 0.0, 0.0)))).max() < 0.06


def test_what_was_seen_and_the_item_itself_are_no_alternatives() -> None:
    """An alternative is a sampled item that serving could have shown instead."""
    seen = np.array([[-1, 4], [-1, -1]], np.int32)
    found = no_choice(seen, np.array([1, 9], np.int32), np.array([1, 4, 7], np.int32), 10)
    assert found.tolist() == [[True, True, False], [False, False, False]]


def test_an_embedding_is_the_newest_state_with_its_shares_of_the_others() -> None:
    """Serving adds what was fitted; without a fit it is the newest state."""
    model, batch = a_model(), histories(50)
    encoder = UserEncoder.of(model)
    newest, previous = np.moveaxis(encoder.newest_states(batch), 1, 0)
    np.testing.assert_allclose(encoder.encode(batch), newest, atol=1e-6)
    with torch.no_grad():
        model.user.previous_share.fill_(0.25)
        model.user.common.fill_(0.5)
    np.testing.assert_allclose(encoder.encode(batch), newest + 0.25 * previous + 0.5, atol=1e-5)


def test_the_previous_state_is_that_of_the_history_without_its_newest_event() -> None:
    """And of a history without events it is the same one."""
    model, batch = a_model(), histories(50)
    encoder = UserEncoder.of(model)
    shorter = {name: np.roll(values, 1, axis=1) for name, values in batch.items()}
    shorter["items"][:, 0], shorter["kinds"][:, 0] = -1, 0
    states = encoder.newest_states(batch)
    np.testing.assert_allclose(states[:, 1], encoder.newest_states(shorter)[:, 0], atol=1e-5)
    nobody = {name: values[:1] * 0 for name, values in batch.items()}
    nobody["items"] -= 1
    cold = encoder.newest_states(nobody)[0]
    np.testing.assert_allclose(cold[0], cold[1], atol=1e-6)


def test_towers_keep_their_shrinkage_and_old_ones_have_none(tmp_path: Path) -> None:
    """A bundle from before states were shrunk encodes as it did."""
    model, batch = a_model(), histories(20)
    plain = UserEncoder.of(model).encode(batch)
    with torch.no_grad():
        model.user.previous_share.fill_(0.25)
        model.user.common.fill_(0.5)
    save_towers(model, tmp_path)
    shrunk: FloatArray = UserEncoder.of(model).encode(batch)
    np.testing.assert_allclose(load_user_tower(tmp_path).encode(batch), shrunk, atol=1e-6)
    assert float(load_towers(tmp_path).user.previous_share) == pytest.approx(0.25)
    kept = load_file(tmp_path / USER_TOWER_FILE)
    del kept["previous_share"], kept["common"]
    save_file(kept, tmp_path / USER_TOWER_FILE)
    np.testing.assert_allclose(load_user_tower(tmp_path).encode(batch), plain, atol=1e-6)


def test_too_few_events_leave_states_as_they_are() -> None:
    """Also those that an earlier training had drawn together."""
    model = a_model()
    with torch.no_grad():
        model.user.previous_share.fill_(0.25)
    log = a_log(20, 7)
    found = shrink_states(log, np.arange(len(log)), model, np.random.default_rng(0))
    assert set(found.values()) == {0.0}
    assert float(model.user.previous_share) == 0.0


def test_shrunk_states_make_the_events_likelier() -> None:
    """What is fitted on a log is put into the tower, and predicts that log no worse."""
    model, log = a_model(), a_log(60, 10)
    events = np.flatnonzero(np.arange(len(log)) % 10 > 3)
    before = mean_rank(model, log, events)
    found = shrink_states(log, events, model, np.random.default_rng(0))
    assert all(share >= 0.0 for share in found.values())
    assert float(model.user.previous_share) == pytest.approx(found["shrink_to_previous"])
    assert mean_rank(model, log, events) <= before + 0.5


def mean_rank(model: TwoTower, log: Interactions, events: NDArray[np.int64]) -> float:
    """Of the events' items among all items."""
    history = histories_before(log, events, LENGTH)
    scores = UserEncoder.of(model).encode(history) @ model.item_vectors().T
    own = scores[np.arange(len(events)), log.rows[events]]
    return float((scores > own[:, None]).sum(1).mean())
