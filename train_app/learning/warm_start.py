"""Starts towers and scorer from a bundle's: items are matched by id, kinds by name.

What the bundle does not know keeps its fresh start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from recsys.bundles.bundle import read_manifest
from recsys.bundles.item_table import ItemTable
from recsys.bundles.scorer_space import SCORER_SPACE
from recsys.errors import BundleError
from recsys.features import FIRST_KIND
from recsys.learning_settings import ScorerSettings, TowerSettings, WarmStartSettings
from recsys.scorer import load_scorer
from recsys.scorer_network import ScorerNetwork
from recsys.tower_networks import RESERVED_KINDS, TwoTower
from recsys.two_tower import load_towers, read_tower_config

_SHAPES = ("embedding_dim", "n_layers", "n_heads", "history_length")
_OF_KINDS = {"kind_values": FIRST_KIND, "kind_bias": FIRST_KIND}
_OF_ACTIONS = {"action_head.weight": 0, "action_head.bias": 0}
"""Tensors of the scorer with a row per kind, and the row of the first kind."""


def of_shape(settings: TowerSettings, bundle_dir: Path) -> tuple[TowerSettings, list[str]]:
    """The towers' settings with the shape of a bundle's towers, and what that changed, in words.

    Raises:
        BundleError: the bundle cannot be read.
    """
    config = read_tower_config(bundle_dir)
    kept = {name: getattr(config, name) for name in _SHAPES}
    changes = _left_behind(bundle_dir)
    changes += [
        f"{name} stays {value} in a warm start; a training from nothing takes "
        f"train.towers.{name} = {getattr(settings, name)}"
        for name, value in kept.items()
        if value != getattr(settings, name)
    ]
    return settings.model_copy(update=kept), changes


def learned_until_ms(bundle_dir: Path) -> int | None:
    """The moment before which the bundle's towers may have learned everything; None unknown."""
    try:
        until_ms = read_manifest(bundle_dir).lineage.get("train_until_ms")
    except BundleError:
        return None
    return int(until_ms) if isinstance(until_ms, int) else None


def warm_towers(settings: TowerSettings, warm: WarmStartSettings) -> TowerSettings:
    """The towers' schedule of a warm start: shorter, from a lower rate."""
    return settings.model_copy(
        update={
            "epochs": min(settings.epochs, warm.epochs),
            "max_minutes": _shorter(settings.max_minutes, warm.max_minutes),
            "learning_rate": settings.learning_rate * warm.rate_share,
        }
    )


def warm_scorer(settings: ScorerSettings, warm: WarmStartSettings) -> ScorerSettings:
    """The scorer's schedule of a warm start."""
    return settings.model_copy(
        update={
            "epochs": min(settings.epochs, warm.epochs),
            "max_minutes": _shorter(settings.max_minutes, warm.max_minutes),
            "learning_rate": settings.learning_rate * warm.rate_share,
        }
    )


def start_scorer_from(network: ScorerNetwork, actions: Sequence[str], bundle_dir: Path) -> bool:
    """Copy the bundle's scorer into `network`; False, and nothing is, where its shape differs.

    Nor is one that reads another space than the bundle's towers, which are the ones to go on from.
    Actions are matched by name; new ones keep their fresh start.

    Raises:
        BundleError: the bundle cannot be read.
    """
    if (bundle_dir / SCORER_SPACE).is_dir():
        return False
    earlier = load_scorer(bundle_dir)
    theirs, own = earlier.network.state_dict(), network.state_dict()
    by_row = _OF_KINDS | _OF_ACTIONS
    plain = [name for name in own if name not in by_row]
    if any(name not in theirs or theirs[name].shape != own[name].shape for name in plain):
        return False
    if own["kind_values"].shape[1] != theirs["kind_values"].shape[1]:
        return False
    place_of = {action: place for place, action in enumerate(earlier.config.actions)}
    with torch.no_grad():
        for name in plain:
            own[name].copy_(theirs[name])
        for name, first in by_row.items():
            own[name][:first].copy_(theirs[name][:first])
            for place, action in enumerate(actions):
                if action in place_of:
                    own[name][first + place].copy_(theirs[name][first + place_of[action]])
    return True


def start_from(model: TwoTower, item_ids: Sequence[str], bundle_dir: Path) -> int:
    """Copy the bundle's weights into `model`, of the same shape; the number of items it knew.

    Raises:
        BundleError: the bundle cannot be read.
    """
    earlier = load_towers(bundle_dir)
    row_of = ItemTable.read(bundle_dir).row_of
    known = earlier.item.is_known.tolist()
    pairs = [
        (row, earlier_row)
        for row, item_id in enumerate(item_ids)
        if (earlier_row := row_of.get(item_id, -1)) >= 0 and known[earlier_row]
    ]
    with torch.no_grad():
        _copy_user_tower(model, earlier)
        model.item.unknown_id.copy_(earlier.item.unknown_id)
        if model.item.content_table.shape == earlier.item.content_table.shape:
            model.item.content_table.copy_(earlier.item.content_table)
        if pairs:
            rows, earlier_rows = torch.tensor(pairs).T
            model.item.ids[rows] = earlier.item.ids[earlier_rows]
    return len(pairs)


def _copy_user_tower(model: TwoTower, earlier: TwoTower) -> None:
    fresh_kinds = model.user.kinds.detach().clone()
    own, theirs = model.user.state_dict(), earlier.user.state_dict()
    own.update({name: tensor for name, tensor in theirs.items() if name != "kinds"})
    model.user.load_state_dict(own)
    place_of = {kind: place for place, kind in enumerate(earlier.config.kinds, RESERVED_KINDS)}
    for place, kind in enumerate(model.config.kinds, RESERVED_KINDS):
        if kind in place_of:
            fresh_kinds[place] = earlier.user.kinds[place_of[kind]]
    fresh_kinds[:RESERVED_KINDS] = earlier.user.kinds[:RESERVED_KINDS]
    model.user.kinds.copy_(fresh_kinds)


def _left_behind(bundle_dir: Path) -> list[str]:
    if not (bundle_dir / SCORER_SPACE).is_dir():
        return []
    return [
        f"the towers start from those {bundle_dir.name} retrieves with, the scorer from nothing: "
        "its own was trained on other towers"
    ]


def _shorter(own_minutes: float, warm_minutes: float) -> float:
    """The shorter of two limits, of which 0 is none."""
    limits = [minutes for minutes in (own_minutes, warm_minutes) if minutes]
    return min(limits, default=0.0)
