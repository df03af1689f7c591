"""A warm start: items by id, kinds by name, other shapes refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundles.item_table import write_item_table
from recsys.errors import ConfigError
from recsys.tower_networks import RESERVED_KINDS, TowerConfig, TwoTower
from recsys.two_tower import save_towers
from recsys.types import Item
from train_app.learning.warm_start import start_from


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


def test_towers_of_another_shape_are_refused(tmp_path: Path) -> None:
    """The message names the setting to change."""
    a_bundle(tmp_path)
    model = towers(["a", "b"], ("view",), seed=2, n_layers=2)
    with pytest.raises(ConfigError, match=r"train\.towers\.n_layers = 2"):
        start_from(model, ["a", "b"], tmp_path)
