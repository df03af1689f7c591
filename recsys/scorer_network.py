"""The scorer's network and its config: what is learned, what it reads, and what its output means.

Legend: B requests, C candidates, R newest history events, D width, F hidden width, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys.features import FIRST_KIND
from recsys.tower_networks import N_GAP_BUCKETS

N_RECENT = 20
"""Newest history events that candidates attend to."""


@dataclass(frozen=True, slots=True)
class ScorerConfig:
    """Shapes, input scales and calibration; kept as `scorer.json`, so serving needs no settings."""

    n_items: int
    embedding_dim: int
    hidden_dims: tuple[int, ...]
    actions: tuple[str, ...]
    utility_weights: tuple[float, ...]
    """Worth of each action."""
    score_center: float
    """Mean retrieval score of candidates, taken off it."""
    score_spread: float
    user_scale: float
    """Multiplies user embeddings, so that the network sees units near 1."""
    vector_scale: float
    action_log_odds: tuple[float, ...]
    """Log odds of each action given any act on the candidate."""
    action_trust: tuple[float, ...]
    """Share of the learned deviation from those log odds; 0 where it does not help."""
    is_negative: tuple[bool, ...]
    """Actions that say the user did not want the item."""
    acted_rate: float = 0.0
    """Share of candidates that users act on in any way: how often a negative action can happen."""
    blend: float = 0.0
    """Share of the learned residual in the estimate; 0 is the order of retrieval."""
    slope: float = 1.0
    """With `offset`: engagement probability = sigmoid(slope * estimate + offset)."""
    offset: float = 0.0
    n_sources: int = 3
    """Sources it was trained with; a candidate of a later one is scored as of no source."""
    reads_successors: bool = False
    """Whether it has a table of what follows what; the log chances have this center and spread."""
    chance_center: float = 0.0
    chance_spread: float = 1.0

    @property
    def n_side(self) -> int:
        """Side features of a candidate: score and popularity, and two per source."""
        return 2 + 2 * self.n_sources

    def __post_init__(self) -> None:
        """Refuse lists that do not name every action."""
        for name in ("utility_weights", "action_log_odds", "action_trust", "is_negative"):
            if len(getattr(self, name)) != len(self.actions):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries, expected one for each of "
                    f"{len(self.actions)} actions"
                )


class ScorerInputs(NamedTuple):
    """What the network reads, in its units."""

    user: Tensor  # [B, D]
    vectors: Tensor  # [B, C, D]
    scores: Tensor  # [B, C] retrieval score less its center
    side: Tensor  # [B, C, side features]
    recent: Tensor  # [B, R, D]
    recent_kinds: Tensor  # [B, R]
    recent_gaps: Tensor  # [B, R]
    chances: Tensor  # [B, C] log chance that the candidate comes next, in standard units


class Estimates(NamedTuple):
    """What the network says."""

    base: Tensor  # [B, C] the retrieval score, scaled
    residual: Tensor  # [B, C]
    deviations: Tensor  # [B, C, A] of action log odds


class ScorerNetwork(nn.Module):
    """Candidate x user products and attention to recent events, then a small network per candidate.

    The product with the user is folded into the first layer's weights per request, so a candidate
    costs one matrix product instead of a concatenation.
    """

    def __init__(self, config: ScorerConfig, dropout: float = 0.0) -> None:
        super().__init__()
        dim, first = config.embedding_dim, config.hidden_dims[0]
        n_kinds = len(config.actions) + FIRST_KIND
        self.reads_successors = config.reads_successors
        self.score_gain = nn.Parameter(torch.ones(()))
        self.user_layer = nn.Linear(dim, first)
        self.item_weight = nn.Parameter(torch.randn(dim, first) * dim**-0.5)
        self.product_weight = nn.Parameter(torch.randn(dim, first) * dim**-0.5)
        self.side_weight = nn.Parameter(torch.randn(config.n_side, first) * 0.1)
        self.key = nn.Parameter(torch.randn(dim, dim) / dim)
        self.value = nn.Linear(dim, first, bias=False)
        if config.reads_successors:
            self.chance_gain = nn.Parameter(torch.zeros(()))
            self.chance_weight = nn.Parameter(torch.randn(first) * 0.1)
        self.kind_values = nn.Parameter(torch.zeros(n_kinds, first))
        self.gap_values = nn.Parameter(torch.zeros(N_GAP_BUCKETS, first))
        self.kind_bias = nn.Parameter(torch.zeros(n_kinds))
        self.place_bias = nn.Parameter(torch.zeros(N_RECENT))
        self.dropout = nn.Dropout(dropout)
        widths = config.hidden_dims
        self.deeper = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.residual_head = nn.Linear(widths[-1], 1)
        self.action_head = nn.Linear(widths[-1], len(config.actions))
        for head in (self.residual_head, self.action_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, inputs: ScorerInputs) -> Estimates:
        """Estimates of every candidate; each depends on its own request alone."""
        user, vectors = inputs.user, inputs.vectors
        weight = self.item_weight + user[:, :, None] * self.product_weight  # [B, D, F]
        hidden = torch.baddbmm(self.user_layer(user)[:, None], vectors, weight)
        hidden = torch.baddbmm(hidden, self._attention(inputs), self._values(inputs))
        hidden = hidden + inputs.side @ self.side_weight
        if self.reads_successors:
            hidden = hidden + inputs.chances[..., None] * self.chance_weight
        hidden = torch.relu(hidden)
        for layer in self.deeper:
            hidden = torch.relu(layer(self.dropout(hidden)))
        hidden = self.dropout(hidden)
        base = inputs.scores * self.score_gain.clamp_min(1e-3)
        residual = self.residual_head(hidden)[..., 0]
        if self.reads_successors:
            residual = residual + self.chance_gain * inputs.chances
        return Estimates(base, residual, self.action_head(hidden))

    def _attention(self, inputs: ScorerInputs) -> Tensor:
        """Weights [B, C, R] over recent events; what is left to 1 attends to nothing."""
        keys = inputs.recent @ self.key
        bias = (
            self.kind_bias[inputs.recent_kinds]
            + self.place_bias[N_RECENT - inputs.recent.shape[1] :]
        )
        bias = bias.masked_fill(inputs.recent_kinds == 0, -torch.inf)
        logits = torch.baddbmm(bias[:, None], inputs.vectors, keys.transpose(1, 2))
        return torch.softmax(nn.functional.pad(logits, (1, 0)), dim=-1)[..., 1:]

    def _values(self, inputs: ScorerInputs) -> Tensor:
        context = self.kind_values[inputs.recent_kinds] + self.gap_values[inputs.recent_gaps]
        return self.value(inputs.recent) + context  # type: ignore[no-any-return]


def action_probabilities(estimates: Estimates, config: ScorerConfig) -> Tensor:
    """P(action) = P(engagement) x P(action | act), [B, C, A].

    A negative action is as likely to be met on any candidate, so the mean rate of acts stands in
    for P(engagement): else what a user wants most would also be what they reject most.
    """
    estimate = estimates.base + config.blend * estimates.residual
    engaged = torch.sigmoid(config.slope * estimate + config.offset)
    trust, log_odds = torch.tensor(config.action_trust), torch.tensor(config.action_log_odds)
    acted = torch.where(
        torch.tensor(config.is_negative), torch.tensor(config.acted_rate), engaged[..., None]
    )
    return acted * torch.sigmoid(log_odds + trust * estimates.deviations)
