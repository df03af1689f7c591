"""A pre-norm causal transformer over left-aligned sequences, fast on processors.

Legend: B sequences, T tokens, H heads, D width. Knows nothing of items or of what a token means.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_QUERY_BLOCK = 128
"""Queries that share one attention product in training: keys after the block are not computed."""


def drop_units(x: Tensor, share: float) -> Tensor:
    """Dropout with one random byte a unit, several times cheaper than torch's on a processor."""
    threshold = round(share * 256)
    if threshold == 0:
        return x
    n_words = (x.numel() + 7) // 8
    words = torch.empty(n_words, dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return x * (keep.to(x.dtype) * (256 / (256 - threshold)))


class CausalBlock(nn.Module):
    """Attention to what came before, then a feed-forward layer, each around a residual."""

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_in = nn.Linear(dim, 4 * dim)
        self.feed_out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """The next layer's tokens, [B, T, D]."""
        normed = self.attention_norm(x)
        query = self._heads(self.query(normed))
        key, value = (self._heads(part) for part in self.key_value(normed).chunk(2, dim=-1))
        if self.training:
            mixed = _blockwise_attention(query, key, value)
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._finish(x, mixed)

    def tokens_at(self, x: Tensor, places: Tensor) -> Tensor:
        """The same layer's output at the tokens `places` [B, K] only, [B, K, D]."""
        rows = torch.arange(len(x))[:, None]
        normed = self.attention_norm(x)
        query = self._heads(self.query(normed[rows, places]))
        key, value = (self._heads(part) for part in self.key_value(normed).chunk(2, dim=-1))
        seen = torch.arange(x.shape[1]) <= places[:, :, None]  # [B, K, T]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
        return self._finish(x[rows, places], mixed)

    def _heads(self, x: Tensor) -> Tensor:
        width = x.shape[-1] // self.n_heads
        return x.view(*x.shape[:-1], self.n_heads, width).transpose(1, 2)  # [B, H, T, D / H]

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self._drop(self.attention_out(mixed.transpose(1, 2).flatten(-2)))
        hidden = functional.gelu(self.feed_in(self.feed_norm(x)))
        return x + self._drop(self.feed_out(hidden))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_units(x, self.dropout) if self.training else x


class CausalTransformer(nn.Module):
    """Token vectors in, a state per token out; the state at a token has read that token and before.

    Args:
        max_tokens: longest sequence; every place in it has a learned position vector.
    """

    def __init__(
        self, dim: int, n_layers: int, n_heads: int, max_tokens: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.positions = nn.Parameter(torch.randn(max_tokens, dim) * 0.02)
        self.blocks = nn.ModuleList(CausalBlock(dim, n_heads, dropout) for _ in range(n_layers))
        self.final_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """The state at every token, [B, T, D]; `tokens` is [B, T, D], T at most `max_tokens`."""
        x = tokens + self.positions[: tokens.shape[1]]
        if self.training:
            x = drop_units(x, self.dropout)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)  # type: ignore[no-any-return]

    def states_at(self, tokens: Tensor, places: Tensor) -> Tensor:
        """The states at the tokens `places` [B, K] of each sequence, [B, K, D], for inference."""
        x = tokens + self.positions[: tokens.shape[1]]
        *inner, outer = self.blocks
        for block in inner:
            x = block(x)
        assert isinstance(outer, CausalBlock)
        return self.final_norm(outer.tokens_at(x, places))  # type: ignore[no-any-return]


def _blockwise_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention [B, H, T, D / H] by blocks of queries.

    Plain batched products beat torch's fused kernel here once its backward pass counts, in
    bfloat16 by about three times.
    """
    batch, heads, n_tokens, width = query.shape
    query, key, value = (part.reshape(-1, n_tokens, width) for part in (query, key, value))
    future = torch.full((_QUERY_BLOCK, _QUERY_BLOCK), -math.inf, dtype=query.dtype).triu(1)
    blocks = []
    for start in range(0, n_tokens, _QUERY_BLOCK):
        end = min(start + _QUERY_BLOCK, n_tokens)
        scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2)) * width**-0.5
        mask = functional.pad(future[: end - start, : end - start], (start, 0))
        weights = torch.softmax(scores + mask, dim=-1, dtype=query.dtype)
        blocks.append(torch.bmm(weights, value[:, :end]))
    return torch.cat(blocks, dim=1).view(batch, heads, n_tokens, width)
