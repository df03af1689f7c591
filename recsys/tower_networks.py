"""The networks of the user tower and the item tower, as they are trained.

Retrieval score = inner product of a user embedding and an item vector. The user tower has no
user-id table: it reads item vectors (tied to the item tower), kinds and the gaps between events.
Legend: B requests, T tokens (a start token, then events), L history length, N items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recsys.transformer import CausalTransformer
from recsys.types import FloatArray, RowArray

GAP_BOUNDS_MS = (300_000, 3_600_000, 43_200_000, 259_200_000, 1_209_600_000, 7_776_000_000)
"""Five minutes, an hour, half a day, three days, two weeks, three months."""
N_GAP_BUCKETS = len(GAP_BOUNDS_MS) + 2
_INITIAL_SCALE = 0.02
"""Small, so that the first steps of Adam already decide where a vector points."""
_ROWS_AT_ONCE = 16_384
_LEAST_SPREAD = 1e-6
"""Content that spreads less than this share of what items do says nothing of them."""
RESERVED_KINDS = 2
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
    """Seconds since the event before as a bucket from 1; NaN, no event before, is bucket 0.

    Compared as whole milliseconds, which is what events have: the difference of two ages is a
    little off, and regular events stand on a bound, so that a bucket would change with the moment
    of the request.
    """
    gaps_ms = np.rint(np.asarray(gaps_s, np.float64) * 1000.0)
    buckets = np.searchsorted(GAP_BOUNDS_MS, gaps_ms, side="right") + 1
    return np.where(np.isnan(gaps_s), 0, buckets).astype(np.uint8)


class ItemTower(nn.Module):
    """Item vector = id embedding + mean of content embeddings.

    An item whose id is hidden, or that no engagement trained, has the learned unknown-id vector in
    place of its own, so that its content decides. What retrieval takes for the vector of an item
    that nothing trained is estimated from that, see `all_vectors`.

    Args:
        content: [N, tokens] content buckets, -1 padding.
        is_known: [N] true where training saw engagements with the item.
    """

    content: Tensor
    is_known: Tensor

    def __init__(self, config: TowerConfig, content: RowArray, is_known: NDArray[np.bool_]) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.register_buffer("content", torch.from_numpy(content.astype(np.int32)))
        self.register_buffer("is_known", torch.from_numpy(is_known.astype(np.bool_)))
        self.ids = nn.Parameter(torch.randn(config.n_items, dim) * _INITIAL_SCALE)
        self.unknown_id = nn.Parameter(torch.zeros(dim))
        self.has_content = bool((content >= 0).any())
        n_buckets = config.n_content_buckets if self.has_content else 1
        self.content_table = nn.Parameter(torch.randn(n_buckets, dim) * _INITIAL_SCALE)

    def forward(self, rows: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Vectors [n, D] of item rows [n]; `hidden` [n] marks ids to pretend not to know."""
        vectors = self.ids.index_select(0, rows)
        known = self.is_known[rows]
        if hidden is not None:
            known = known & ~hidden
        vectors = torch.where(known[:, None], vectors, self.unknown_id)
        return vectors + self._content_vectors(rows) if self.has_content else vectors

    def all_vectors(self, start: Tensor) -> Tensor:
        """Vectors of every row, [N, D]; of items that nothing trained, as `_estimated`.

        Args:
            start: [D] the embedding of a user without a history, to whom items score by how
                popular they are.
        """
        with torch.inference_mode():
            vectors = torch.empty_like(self.ids)
            for rows in torch.split(torch.arange(len(self.ids)), _ROWS_AT_ONCE):
                vectors[rows] = self(rows)
            known, unknown = self.is_known.nonzero()[:, 0], (~self.is_known).nonzero()[:, 0]
            if len(known) and len(unknown):
                self._estimate(vectors, known, unknown, start)
            return vectors

    def adopt(self, rows: Tensor, vectors: Tensor) -> None:
        """Let items that nothing trained be trained from now on, from these vectors [n, D]."""
        with torch.no_grad():
            own = vectors - self._content_vectors(rows) if self.has_content else vectors
            self.ids[rows] = own
            self.is_known[rows] = True

    def _estimate(self, vectors: Tensor, known: Tensor, unknown: Tensor, start: Tensor) -> None:
        """Put into `vectors` what items of the content of `unknown` have come to be.

        What content alone gives is short, because it is learned beside ids that carry most of an
        item. So it is moved and stretched by the shift and the one factor that, over the known
        items, meet the mean of their vectors and come nearest to each (least squares), and by no
        more than makes it spread as they do. An item counts by the root of its share of first
        engagements: between the mean item, which is less than what a new item may become, and the
        mean engagement, which is of the head.
        """
        shares = torch.softmax((vectors @ start / 2)[known], 0).double()
        center, mean = torch.zeros_like(start).double(), torch.zeros_like(start).double()
        product, own_square, content_square = 0.0, 0.0, 0.0
        for part in torch.split(torch.arange(len(known)), _ROWS_AT_ONCE):
            rows, share = known[part], shares[part][:, None]
            own = vectors[rows].double()
            content = self(rows, torch.ones(len(rows), dtype=torch.bool)).double()
            center += (share * content).sum(0)
            mean += (share * own).sum(0)
            product += float((share * content * own).sum())
            own_square += float((share * own**2).sum())
            content_square += float((share * content**2).sum())
        own_spread = max(own_square - float(mean @ mean), 0.0)
        content_spread = max(content_square - float(center @ center), 0.0)
        factor = 0.0
        if content_spread > _LEAST_SPREAD * own_spread > 0:
            explained = (product - float(center @ mean)) / content_spread
            factor = min(max(explained, 0.0), (own_spread / content_spread) ** 0.5)
        for rows in torch.split(unknown, _ROWS_AT_ONCE):
            vectors[rows] = (mean + factor * (vectors[rows].double() - center)).to(vectors.dtype)

    def _content_vectors(self, rows: Tensor) -> Tensor:
        tokens = self.content[rows]
        present = tokens >= 0
        counts = present.sum(1)
        starts = torch.cumsum(counts, 0) - counts
        return functional.embedding_bag(
            tokens[present], self.content_table, starts.to(torch.int32), mode="mean"
        )


class UserTower(nn.Module):
    """States of a user after every event of the history, from item vectors, kinds and gaps.

    What retrieval searches with is the newest state drawn towards the one before it and towards
    what states have in common: how far, training finds out last, on events it did not learn from
    (`train_app.learning.towers.fit_shrinkage`).
    """

    previous_share: Tensor
    common: Tensor

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.scale = dim**0.5
        self.start = nn.Parameter(torch.randn(dim) * 0.1)
        self.kinds = nn.Parameter(torch.randn(len(config.kinds) + RESERVED_KINDS, dim) * 0.02)
        self.gaps = nn.Parameter(torch.randn(N_GAP_BUCKETS, dim) * 0.02)
        self.transformer = CausalTransformer(
            dim, config.n_layers, config.n_heads, config.n_tokens, config.dropout
        )
        self.register_buffer("previous_share", torch.zeros(()))
        self.register_buffer("common", torch.zeros(dim))

    def forward(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        """States [B, T, D] of events [B, T - 1, D] after the start token, padding at the end."""
        return self.transformer(self._tokens(item_vectors, kinds, gaps))  # type: ignore[no-any-return]

    def last_state(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor, n: Tensor) -> Tensor:
        """The state after event `n` [B] (0: after the start token alone), [B, D]."""
        return self.newest_states(item_vectors, kinds, gaps, n)[:, 0]

    def embedding(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor, n: Tensor) -> Tensor:
        """What retrieval searches with after event `n` [B], [B, D]."""
        newest, previous = self.newest_states(item_vectors, kinds, gaps, n).unbind(1)
        return newest + self.previous_share * previous + self.common

    def newest_states(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor, n: Tensor) -> Tensor:
        """The states after event `n` [B] and one event earlier, [B, 2, D].

        After the start token alone both are the state there.
        """
        places = torch.stack([n, (n - 1).clamp(min=0)], dim=1)
        states: Tensor = self.transformer.states_at(self._tokens(item_vectors, kinds, gaps), places)
        return states

    def _tokens(self, item_vectors: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        events = item_vectors * self.scale
        events = events + functional.embedding(kinds, self.kinds)
        events = events + functional.embedding(gaps, self.gaps)
        start = self.start.expand(len(events), 1, -1)
        return torch.cat([start.to(events.dtype), events], dim=1)


class TwoTower(nn.Module):
    """Both towers, as they are trained."""

    def __init__(self, config: TowerConfig, content: RowArray, is_known: NDArray[np.bool_]) -> None:
        super().__init__()
        self.config = config
        self.user = UserTower(config)
        self.item = ItemTower(config, content, is_known)

    def item_vectors(self) -> FloatArray:
        """Vectors of every item, [N, D]."""
        was_training = self.user.training
        self.user.eval()
        with torch.inference_mode():
            nothing = torch.zeros(1, 0, dtype=torch.int64)
            events = torch.zeros(1, 0, self.config.embedding_dim)
            start = self.user.last_state(events, nothing, nothing, nothing.sum(1))[0]
            vectors = self.item.all_vectors(start)
        self.user.train(was_training)
        return vectors.float().numpy()
