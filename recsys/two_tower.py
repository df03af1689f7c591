"""The towers of a bundle: the user tower over arrays, and the files towers are kept in.

Retrieval score = inner product of a user embedding and an item vector. The networks themselves
are `tower_networks`. Legend: B requests, L history length, N items, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.errors import BundleCorrupt
from recsys.tower_networks import TowerConfig, TwoTower, UserTower, gap_buckets
from recsys.types import Batch, FloatArray, RowArray

USER_TOWER_FILE = "user_tower.safetensors"
ITEM_TOWER_FILE = "item_tower.safetensors"
ITEM_VECTORS_FILE = "item_vectors.safetensors"
TOWERS_FILE = "towers.json"


class UserEncoder:
    """Histories to user embeddings: inference only, NumPy in and out."""

    def __init__(self, config: TowerConfig, tower: UserTower, vectors: Tensor) -> None:
        self.config = config
        self.tower = tower
        self.vectors = vectors

    @classmethod
    def of(cls, model: TwoTower) -> UserEncoder:
        """The encoder of towers in training, at their present weights."""
        return cls(model.config, model.user, torch.from_numpy(model.item_vectors()))

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        tensors = [self.vectors, *self.tower.parameters()]
        return sum(tensor.nbytes for tensor in tensors)

    def encode(self, batch: Batch) -> FloatArray:
        """User embeddings [B, D].

        Args:
            batch: "items" int32 [B, L] newest last, -1 padding; "kinds" uint8 [B, L]; "ages_s"
                float64 [B, L]. An empty history gives the learned cold-start embedding.
        """
        return self._read(batch, self.tower.embedding)

    def newest_states(self, batch: Batch) -> FloatArray:
        """What an embedding is made of: the newest state and the one before, [B, 2, D]."""
        return self._read(batch, self.tower.newest_states)

    def _read(
        self, batch: Batch, read: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    ) -> FloatArray:
        items, kinds, gaps, lengths = left_aligned(batch, self.config.history_length)
        was_training = self.tower.training
        if was_training:
            self.tower.eval()
        with torch.inference_mode():
            rows = torch.from_numpy(np.maximum(items, 0).astype(np.int64))
            found = read(
                self.vectors[rows],
                torch.from_numpy(kinds.astype(np.int64)),
                torch.from_numpy(gaps.astype(np.int64)),
                torch.from_numpy(lengths),
            )
        if was_training:
            self.tower.train()
        return found.numpy()

    def inner_products(self, user_emb: FloatArray, rows: RowArray) -> FloatArray:
        """Retrieval scores [B, C] of item rows [B, C] for user embeddings [B, D]; -1 reads row 0.

        Args:
            user_emb: of this tower.
        """
        with torch.inference_mode():
            vectors = self.vectors[torch.from_numpy(np.maximum(rows, 0).astype(np.int64))]
            scores: FloatArray = torch.bmm(vectors, torch.from_numpy(user_emb)[:, :, None])[
                ..., 0
            ].numpy()
        return scores


def left_aligned(
    batch: Batch, history_length: int
) -> tuple[RowArray, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """What the user tower reads of histories "items", "kinds", "ages_s" [B, L].

    Items, kinds and gap buckets [B, longest], oldest first from column 0, and lengths [B].
    """
    present = batch["items"] >= 0
    order = np.argsort(~present, axis=1, kind="stable")
    lengths = present.sum(1)
    skipped = np.maximum(lengths - history_length, 0)
    lengths = np.minimum(lengths, history_length)
    longest = int(lengths.max(initial=0))
    columns = np.minimum(np.arange(longest) + skipped[:, None], max(order.shape[1] - 1, 0))
    order = np.take_along_axis(order, columns, axis=1)
    is_event = np.arange(longest) < lengths[:, None]
    items = np.where(is_event, np.take_along_axis(batch["items"], order, axis=1), -1)
    kinds = np.where(is_event, np.take_along_axis(batch["kinds"], order, axis=1), 0)
    ages_s = np.take_along_axis(batch["ages_s"], order, axis=1)
    gaps_s = np.full(ages_s.shape, np.nan)
    gaps_s[:, 1:] = ages_s[:, :-1] - ages_s[:, 1:]
    gaps = np.where(is_event, gap_buckets(gaps_s), 0)
    return items.astype(np.int32), kinds.astype(np.uint8), gaps.astype(np.uint8), lengths


def save_towers(model: TwoTower, directory: Path) -> None:
    """Write the four tower files of a bundle into `directory`."""
    user = {name: value.contiguous() for name, value in model.user.state_dict().items()}
    item = {name: value.contiguous() for name, value in model.item.state_dict().items()}
    save_file(user, directory / USER_TOWER_FILE)
    save_file(item, directory / ITEM_TOWER_FILE)
    vectors = torch.from_numpy(model.item_vectors()).contiguous()
    save_file({"vectors": vectors}, directory / ITEM_VECTORS_FILE)
    write_tower_config(model.config, directory)


def write_tower_config(config: TowerConfig, directory: Path) -> None:
    """Write `towers.json` into `directory`."""
    (directory / TOWERS_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")


def read_tower_config(directory: Path) -> TowerConfig:
    """The config of a bundle's towers.

    Raises:
        BundleCorrupt: `towers.json` is missing or does not hold it.
    """
    path = directory / TOWERS_FILE
    try:
        fields = json.loads(path.read_text())
        return TowerConfig(**{**fields, "kinds": tuple(fields["kinds"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"{path} cannot be read as a tower config ({error}); fetch the bundle again"
        raise BundleCorrupt(message) from error


def load_user_tower(directory: Path) -> UserEncoder:
    """The user tower of a bundle directory, ready to encode.

    Raises:
        BundleCorrupt: a tower file is missing, broken or of another shape than `towers.json` says.
    """
    config = read_tower_config(directory)
    tower = UserTower(config)
    state = _user_state(directory, tower)
    vectors = load_tensors(directory / ITEM_VECTORS_FILE).get("vectors", torch.empty(0))
    shape = (config.n_items, config.embedding_dim)
    if tuple(vectors.shape) != shape:
        raise BundleCorrupt(
            f"{directory / ITEM_VECTORS_FILE} has vectors of shape {tuple(vectors.shape)}, "
            f"expected {shape}; fetch the bundle again"
        )
    load_state(tower, state, directory / USER_TOWER_FILE)
    return UserEncoder(config, tower.eval(), vectors)


def load_towers(directory: Path) -> TwoTower:
    """Both towers of a bundle directory, to train on.

    Raises:
        BundleCorrupt: a tower file is missing, broken or of another shape than `towers.json` says.
    """
    config = read_tower_config(directory)
    item_state = load_tensors(directory / ITEM_TOWER_FILE)
    try:
        content, is_known = item_state["content"].numpy(), item_state["is_known"].numpy()
    except KeyError as error:
        raise BundleCorrupt(
            f"{directory / ITEM_TOWER_FILE} lacks {error}; fetch it again"
        ) from error
    model = TwoTower(config, content, is_known)
    load_state(model.user, _user_state(directory, model.user), directory / USER_TOWER_FILE)
    load_state(model.item, item_state, directory / ITEM_TOWER_FILE)
    return model


def _user_state(directory: Path, tower: UserTower) -> dict[str, Tensor]:
    """The user tower's tensors; a bundle from before states were shrunk leaves them as they are."""
    return {**dict(tower.named_buffers()), **load_tensors(directory / USER_TOWER_FILE)}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        BundleCorrupt: the file is missing or broken.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        message = f"{path} cannot be read as safetensors ({error}); fetch the bundle again"
        raise BundleCorrupt(message) from error


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put `state` into `module`.

    Raises:
        BundleCorrupt: a tensor is missing, unknown or of another shape.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise BundleCorrupt(f"{path} does not fit its config: {' '.join(lines)[:300]}") from error
