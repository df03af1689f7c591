"""A warm start: items by id, kinds by name, other shapes refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recsys.bundles.item_table import write_item_table
from recsys.features import FIRST_KIND
from recsys.learning_settings import ScorerSettings, TowerSettings, WarmStartSettings
from recsys.scorer import CandidateScorer, save_scorer
from recsys.scorer_network import ScorerConfig, ScorerNetwork
from recsys.settings import Settings
from recsys.tower_networks import RESERVED_KINDS, TowerConfig, TwoTower
from recsys.two_tower import save_towers
from recsys.types import Item
from tests.untrained_models import some_interactions
from train_app.learning.ranking.scorer_examples import held_back_events
from train_app.learning.towers.planned_towers import planned_towers
from train_app.learning.warm_start import (
    of_shape,
    start_from,
    start_scorer_from,
    warm_scorer,
    warm_towers,
)


def towers(item_ids: list[str], kinds: tuple[str, ...], seed: int, **shape: int) -> TwoTower:
    """Fresh towers over the items; the last of which nobody engaged with."""
    torch.manual_seed(seed)
    sizes = {"embedding_dim": 8, "n_layers": 1, "n_heads": 2, "history_length": 6, **shape}
    config = TowerConfig(len(item_ids), **sizes, kinds=kinds, n_content_buckets=16)
    content = np.zeros((len(item_ids), 1), dtype=np.int32)
    model = TwoTower(config, content, np.arange(len(item_ids)) < len(item_ids) - 1)
    with torch.no_grad():
        model.user.kinds += torch.randn(model.user.kinds.shape)
    return model


def a_bundle(directory: Path) -> TwoTower:
    """Towers over four items and two kinds, as a bundle keeps them."""
    item_ids = ["a", "b", "c", "d"]
    model = towers(item_ids, ("view", "like"), seed=1)
    save_towers(model, directory)
    write_item_table(directory, [Item(i) for i in item_ids], np.zeros(4, np.float32))
    return model


def test_known_items_and_kinds_keep_their_vectors_wherever_they_moved(tmp_path: Path) -> None:
    """New items and kinds, and items that were never trained, keep a fresh start."""
    earlier = a_bundle(tmp_path)
    model = towers(["z", "c", "d", "a"], ("like", "play", "view"), seed=2)
    fresh_ids, fresh_kinds = model.item.ids.detach().clone(), model.user.kinds.detach().clone()
    assert start_from(model, ["z", "c", "d", "a"], tmp_path) == 2
    assert torch.equal(model.item.ids[1], earlier.item.ids[2])
    assert torch.equal(model.item.ids[3], earlier.item.ids[0])
    assert torch.equal(model.item.ids[[0, 2]], fresh_ids[[0, 2]])
    own, theirs = model.user.kinds[RESERVED_KINDS:], earlier.user.kinds[RESERVED_KINDS:]
    assert torch.equal(own[[0, 2]], theirs[[1, 0]])
    assert torch.equal(own[1], fresh_kinds[RESERVED_KINDS + 1])
    assert torch.equal(model.user.start, earlier.user.start)
    assert torch.equal(model.item.content_table, earlier.item.content_table)


def test_towers_keep_the_shape_they_were_trained_with(tmp_path: Path) -> None:
    """What the settings say otherwise waits for a training from nothing, and is said."""
    a_bundle(tmp_path)
    asked = TowerSettings(embedding_dim=128, n_layers=1, n_heads=2, history_length=6, epochs=9)
    kept, changes = of_shape(asked, tmp_path)
    assert kept == asked.model_copy(update={"embedding_dim": 8})
    assert changes == [
        "embedding_dim stays 8 in a warm start; a training from nothing takes "
        "train.towers.embedding_dim = 128"
    ]
    assert of_shape(kept, tmp_path) == (kept, [])


def test_a_warm_start_is_not_watched(tmp_path: Path) -> None:
    """By reactions to what stable showed, stable's own weights would always be the best."""
    a_bundle(tmp_path)
    settings, train = Settings(data_dir=tmp_path), some_interactions(n_users=80)
    kept = held_back_events(train, np.random.default_rng(0))
    assert len(planned_towers(train, settings, kept, None).watched) == len(kept) > 0
    assert len(planned_towers(train, settings, kept, tmp_path).watched) == 0


def a_scorer(actions: tuple[str, ...], hidden: int = 6, seed: int = 0) -> CandidateScorer:
    """A scorer with random weights over the four items of `a_bundle`."""
    torch.manual_seed(seed)
    n = len(actions)
    config = ScorerConfig(
        n_items=4,
        embedding_dim=8,
        hidden_dims=(hidden,),
        actions=actions,
        utility_weights=(1.0,) * n,
        score_center=0.0,
        score_spread=1.0,
        user_scale=1.0,
        vector_scale=1.0,
        action_log_odds=(0.0,) * n,
        action_trust=(0.0,) * n,
        is_negative=(False,) * n,
    )
    network = ScorerNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape))
    return CandidateScorer(config, network, torch.zeros(4, 8), torch.zeros(4))


def test_a_scorer_keeps_what_it_knew_of_each_action_by_name(tmp_path: Path) -> None:
    """New actions keep a fresh start; a scorer of another shape begins anew."""
    a_bundle(tmp_path)
    earlier = a_scorer(("view", "like"), seed=1)
    save_scorer(earlier, tmp_path)
    actions = ("like", "play", "view")
    network = a_scorer(actions, seed=2).network
    fresh = network.action_head.weight.detach().clone()
    assert start_scorer_from(network, actions, tmp_path)
    theirs = earlier.network
    assert torch.equal(network.action_head.weight[[0, 2]], theirs.action_head.weight[[1, 0]])
    assert torch.equal(network.action_head.weight[1], fresh[1])
    assert torch.equal(network.kind_values[FIRST_KIND], theirs.kind_values[FIRST_KIND + 1])
    assert torch.equal(network.user_layer.weight, theirs.user_layer.weight)
    wider = a_scorer(actions, hidden=7, seed=3).network
    before = wider.user_layer.weight.detach().clone()
    assert not start_scorer_from(wider, actions, tmp_path)
    assert torch.equal(wider.user_layer.weight, before)


def test_a_warm_start_is_shorter_and_gentler_and_never_longer() -> None:
    """Its own limits stand below those of a training from nothing; 0 is no limit."""
    warm = WarmStartSettings(epochs=3, max_minutes=2.0, rate_share=0.5)
    towers = warm_towers(TowerSettings(epochs=30, max_minutes=10.0, learning_rate=0.01), warm)
    assert (towers.epochs, towers.max_minutes, towers.learning_rate) == (3, 2.0, 0.005)
    assert warm_towers(TowerSettings(epochs=1, max_minutes=0), warm).max_minutes == 2.0
    short = warm_scorer(ScorerSettings(epochs=1, max_minutes=0.5), warm)
    assert (short.epochs, short.max_minutes) == (1, 0.5)
