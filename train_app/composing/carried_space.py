"""Writes a scorer with the towers it was trained on, in the rows of another bundle's item table.

What the towers know is only permuted. An item that they do not know gets the vector that they
would estimate for a new item, from its content, the popularity of one that nobody met, and no
successors.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from recsys.bundles.bundle import read_manifest
from recsys.bundles.item_table import ITEMS_FILE, read_item_facts, read_item_ids
from recsys.bundles.scorer_space import SCORER_SPACE, SCORER_SPACE_FILES, ScorerSpace
from recsys.features import content_matrix
from recsys.scorer import CandidateScorer, load_scorer, save_scorer
from recsys.tower_networks import TwoTower
from recsys.two_tower import (
    ITEM_VECTORS_FILE,
    USER_TOWER_FILE,
    load_towers,
    read_tower_config,
    write_tower_config,
)
from recsys.types import NO_ROW, Item


def write_scorer_space(bundle_dir: Path, donor_dir: Path) -> ScorerSpace:
    """Write the folder of a scorer with its own towers into a bundle that is being made.

    Args:
        bundle_dir: holds the item table whose rows are retrieved.
        donor_dir: a bundle whose scorer reads its own towers.

    Raises:
        BundleError: a file of the donor is missing, broken or does not fit the others.
    """
    folder = bundle_dir / SCORER_SPACE
    folder.mkdir()
    items = read_items(bundle_dir)
    donor_ids = read_item_ids((donor_dir / ITEMS_FILE).read_bytes())
    n_estimated = 0
    if [item.item_id for item in items] == donor_ids:
        for name in SCORER_SPACE_FILES:
            shutil.copyfile(donor_dir / Path(name).name, bundle_dir / name)
    else:
        n_estimated = _write_moved(folder, donor_dir, items, donor_ids)
    manifest = read_manifest(donor_dir)
    return ScorerSpace(manifest.space_fingerprint, manifest.embedding_dim, n_estimated)


def read_items(bundle_dir: Path) -> list[Item]:
    """The items of a bundle by row, with what their content is made of."""
    facts = read_item_facts((bundle_dir / ITEMS_FILE).read_bytes())
    items = []
    for item_id in facts.item_ids:
        title, categories, creator, created_ms, available = facts.by_id[item_id]
        items.append(Item(item_id, title, categories, creator, created_ms, available))  # type: ignore[arg-type]
    return items


def _write_moved(
    folder: Path, donor_dir: Path, items: Sequence[Item], donor_ids: Sequence[str]
) -> int:
    """Write the towers and the scorer in the rows of `items`; the number of estimated vectors."""
    row_of = {item_id: row for row, item_id in enumerate(donor_ids)}
    rows = np.asarray([row_of.get(item.item_id, NO_ROW) for item in items], np.int64)
    unknown = np.flatnonzero(rows < 0)
    scorer = load_scorer(donor_dir)
    source = torch.from_numpy(np.maximum(rows, 0))
    vectors, popularity = scorer.vectors[source], scorer.popularity[source]
    if len(unknown):
        places = torch.from_numpy(unknown)
        vectors[places] = estimated_vectors(donor_dir, [items[row] for row in unknown.tolist()])
        popularity[places] = scorer.popularity.min()
    successors = None if scorer.successors is None else scorer.successors.in_order(rows)
    config = replace(scorer.config, n_items=len(items))
    save_scorer(CandidateScorer(config, scorer.network, vectors, popularity, successors), folder)
    save_file({"vectors": vectors.contiguous()}, folder / ITEM_VECTORS_FILE)
    write_tower_config(replace(read_tower_config(donor_dir), n_items=len(items)), folder)
    shutil.copyfile(donor_dir / USER_TOWER_FILE, folder / USER_TOWER_FILE)
    return len(unknown)


def estimated_vectors(bundle_dir: Path, items: Sequence[Item]) -> Tensor:
    """Vectors [n, D] of items that a bundle's towers never met, as they estimate new items."""
    towers = load_towers(bundle_dir)
    own, n_known = towers.item, towers.config.n_items
    content = content_matrix(items, towers.config.n_content_buckets, own.content.shape[1])
    if not own.has_content:
        content[:] = NO_ROW
    larger = TwoTower(
        replace(towers.config, n_items=n_known + len(items)),
        np.concatenate([own.content.numpy(), content]),
        np.concatenate([own.is_known.numpy(), np.zeros(len(items), np.bool_)]),
    )
    larger.user.load_state_dict(towers.user.state_dict())
    with torch.no_grad():
        larger.item.ids[:n_known] = own.ids
        larger.item.unknown_id.copy_(own.unknown_id)
        larger.item.content_table.copy_(own.content_table)
    return torch.from_numpy(larger.item_vectors()[n_known:])
