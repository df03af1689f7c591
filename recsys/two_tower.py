"""The user tower and the item tower: who, from their history alone, is near which item.

Retrieval score = inner product of a user embedding and an item vector. The user tower has no
user-id table: it reads item vectors (tied to the item tower), kinds and the gaps between events.
Legend: B requests, T tokens (a start token, then events), L history length, N items, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from recsys.errors import BundleCorrupt
from recsys.transformer import CausalTransformer
from recsys.types import Batch, FloatArray, RowArray

USER_TOWER_FILE = "user_tower.safetensors"
ITEM_TOWER_FILE = "item_tower.safetensors"
ITEM_VECTORS_FILE = "item_vectors.safetensors"
TOWERS_FILE = "towers.json"

_GAP_BOUNDS_S = (300.0, 3_600.0, 43_200.0, 259_200.0, 1_209_600.0, 7_776_000.0)
"""Five minutes, an hour, half a day, three days, two weeks, three months. Coarse on purpose: an
age of years as float32 seconds is exact to a minute only."""
N_GAP_BUCKETS = len(_GAP_BOUNDS_S) + 2
_RESERVED_KINDS = 2
"""Kind index 0 is padding, 1 any kind the schema does not name."""


@dataclass(frozen=True, slots=True)
class TowerConfig:
    """What the shapes of both towers follow from; kept as `towers.json`."""

    n_items: int
    embedding_dim: int
    n_layers: int
    n_heads: int
    history_length: int
    kinds: tuple[str, ...]
    n_content_buckets: int
    dropout: float = 0.0

    @property
    def n_tokens(self) -> int:
        """Longest token sequence: the start token and the history."""
        return self.history_length + 1


def gap_buckets(gaps_s: NDArray[np.float64] | FloatArray) -> NDArray[np.uint8]:
    """Seconds since the event before as a bucket from 1; NaN, no event before, is bucket 0."""
    buckets = np.searchsorted(_GAP_BOUNDS_S, gaps_s, side="right") + 1
    return np.where(np.isnan(gaps_s), 0, buckets).astype(np.uint8)


class ItemTower(nn.Module):
    """Item vector = id embedding + mean of content embeddings.

    An item whose id is hidden, or that no engagement trained, has the learned unknown-id vector in
    place of its own, so that its content decides.

    Args:
        content: [N, tokens] content buckets, -1 padding.
        is_known: [N] true where training saw engagements with the item.
    """

    content: Tensor
    is_known: Tensor

    def __init__(
        self, config: TowerConfig, content: RowArray, is_known: NDArray[np.bool_]
    ) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.register_buffer("content", torch.from_numpy(content.astype(np.int32)))
        self.register_buffer("is_known", torch.from_numpy(is_known.astype(np.bool_)))
        self.ids = nn.Parameter(torch.randn(config.n_items, dim) * dim**-0.5)
        self.unknown_id = nn.Parameter(torch.zeros(dim))
        self.has_content = bool((content >= 0).any())
        n_buckets = config.n_content_buckets if self.has_content else 1
        self.content_table = nn.Parameter(torch.randn(n_buckets, dim) * 0.1 * dim**-0.5)

    def forward(self, rows: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Vectors [n, D] of item rows [n]; `hidden` [n] marks ids to pretend not to know."""
        vectors = self.ids.index_select(0, rows)
        known = self.is_known[rows]
        if hidden is not None:
            known = known & ~hidden
        vectors = torch.where(known[:, None], vectors, self.unknown_id)
        return vectors + self._content_vectors(rows) if self.has_content else vectors

    def all_vectors(self) -> Tensor:
        """Vectors of every row, [N, D]."""
        chunks = torch.arange(len(self.ids)).split(65_536)
        with torch.inference_mode():
            return torch.cat([self(rows) for rows in chunks]) if chunks else self.ids[:0]

    def _content_vectors(self, rows: Tensor) -> Tensor:
        tokens = self.content[rows]
        present = tokens >= 0
        counts = present.sum(1)
        starts = torch.cumsum(counts, 0) - counts
        return functional.embedding_bag(
            tokens[present], self.content_table, starts.to(torch.int32), mode="mean"
        )


class UserTower(nn.Module):
    """States of a user after every event of the history, from item vectors, kinds and gaps."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.scale = dim**0.5
        self.start = nn.Parameter(torch.randn(dim) * 0.1)
        self.kinds = nn.Parameter(torch.randn(len(config.kinds) + _RESERVED_KINDS, dim) * 0.02)
        self.gaps = nn.Parameter(torch.randn(N_GAP_BUCKETS, dim) * 0.02)
        self.transformer = CausalTransformer(
            dim, config.n_layers, config.n_heads, config.n_tokens, config.dropout
        )

    def forward(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        """States [B, T, D] of events [B, T - 1, D] after the start token, padding at the end."""
        return self.transformer(self._tokens(item_vectors, kinds, gaps))  # type: ignore[no-any-return]

    def last_state(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor, n: Tensor) -> Tensor:
        """The state after event `n` [B] (0: after the start token alone), [B, D]."""
        return self.transformer.last_state(self._tokens(item_vectors, kinds, gaps), n)

    def _tokens(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        events = item_vectors * self.scale
        events = events + functional.embedding(kinds, self.kinds)
        events = events + functional.embedding(gaps, self.gaps)
        start = self.start.expand(len(events), 1, -1)
        return torch.cat([start.to(events.dtype), events], dim=1)


class TwoTower(nn.Module):
    """Both towers, as they are trained."""

    def __init__(
        self, config: TowerConfig, content: RowArray, is_known: NDArray[np.bool_]
    ) -> None:
        super().__init__()
        self.config = config
        self.user = UserTower(config)
        self.item = ItemTower(config, content, is_known)

    def item_vectors(self) -> FloatArray:
        """Vectors of every item, [N, D]."""
        return self.item.all_vectors().float().numpy()

    def encoder(self) -> UserEncoder:
        """The user tower as serving runs it."""
        return UserEncoder(self.config, self.user, torch.from_numpy(self.item_vectors()))


class UserEncoder:
    """Histories to user embeddings: inference only, NumPy in and out."""

    def __init__(self, config: TowerConfig, tower: UserTower, vectors: Tensor) -> None:
        self.config = config
        self._tower = tower
        self._vectors = vectors

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        tensors = [self._vectors, *self._tower.parameters()]
        return sum(tensor.nbytes for tensor in tensors)

    def encode(self, batch: Batch) -> FloatArray:
        """User embeddings [B, D].

        Args:
            batch: "items" int32 [B, L] newest last, -1 padding; "kinds" uint8 [B, L]; "ages_s"
                float32 [B, L]. An empty history gives the learned cold-start embedding.
        """
        items, kinds, gaps, lengths = _left_aligned(batch, self.config.history_length)
        was_training = self._tower.training
        self._tower.eval()
        with torch.inference_mode():
            rows = torch.from_numpy(np.maximum(items, 0).astype(np.int64))
            states = self._tower.last_state(
                self._vectors[rows],
                torch.from_numpy(kinds.astype(np.int64)),
                torch.from_numpy(gaps.astype(np.int64)),
                torch.from_numpy(lengths),
            )
        self._tower.train(was_training)
        return states.numpy()


def _left_aligned(
    batch: Batch, history_length: int
) -> tuple[RowArray, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Items, kinds and gap buckets [B, longest], oldest first from column 0, and lengths [B]."""
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
    gaps_s = np.full(ages_s.shape, np.nan, np.float32)
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
    (directory / TOWERS_FILE).write_text(json.dumps(asdict(model.config), indent=2) + "\n")


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
    state = load_tensors(directory / USER_TOWER_FILE)
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
        raise BundleCorrupt(f"{directory / ITEM_TOWER_FILE} lacks {error}; fetch it again") from error
    model = TwoTower(config, content, is_known)
    load_state(model.user, load_tensors(directory / USER_TOWER_FILE), directory / USER_TOWER_FILE)
    load_state(model.item, item_state, directory / ITEM_TOWER_FILE)
    return model


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        BundleCorrupt: the file is missing or broken.
    """
    try:
        return load_file(path)
    except Exception as error:
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
        lines: Sequence[str] = str(error).splitlines()
        raise BundleCorrupt(f"{path} does not fit its config: {' '.join(lines)[:300]}") from error
