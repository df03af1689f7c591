"""The scorer: how likely a user engages with each candidate, in which way, and what that is worth.

An estimate is the retrieval score plus a learned residual, so an untrained scorer keeps the order
of retrieval. Legend: B requests, C candidates, R newest history events, D width, F hidden width,
A actions.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from recsys.errors import BundleCorrupt
from recsys.features import FIRST_KIND
from recsys.tower_networks import N_GAP_BUCKETS, gap_buckets
from recsys.two_tower import ITEM_VECTORS_FILE, load_state, load_tensors
from recsys.types import Batch, FloatArray, Source

SCORER_FILE = "scorer.safetensors"
SCORER_CONFIG_FILE = "scorer.json"
N_RECENT = 20
"""Newest history events that candidates attend to."""

_N_SOURCES = len(Source)
_N_SIDE = 2 + 2 * _N_SOURCES


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
        self.score_gain = nn.Parameter(torch.ones(()))
        self.user_layer = nn.Linear(dim, first)
        self.item_weight = nn.Parameter(torch.randn(dim, first) * dim**-0.5)
        self.product_weight = nn.Parameter(torch.randn(dim, first) * dim**-0.5)
        self.side_weight = nn.Parameter(torch.randn(_N_SIDE, first) * 0.1)
        self.key = nn.Parameter(torch.randn(dim, dim) / dim)
        self.value = nn.Linear(dim, first, bias=False)
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
        hidden = torch.relu(hidden + inputs.side @ self.side_weight)
        for layer in self.deeper:
            hidden = torch.relu(layer(self.dropout(hidden)))
        hidden = self.dropout(hidden)
        base = inputs.scores * self.score_gain.clamp_min(1e-3)
        return Estimates(base, self.residual_head(hidden)[..., 0], self.action_head(hidden))

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


class CandidateScorer:
    """A scorer with the item facts it reads: inference, NumPy in and out.

    Args:
        vectors: [N, D] item vectors of the bundle.
        popularity: [N] log of engagements in training, in standard units.
    """

    def __init__(
        self, config: ScorerConfig, network: ScorerNetwork, vectors: Tensor, popularity: Tensor
    ) -> None:
        self.config = config
        self.network = network
        self.vectors = vectors
        self.popularity = popularity
        self._weights = torch.tensor(config.utility_weights)

    def inputs(self, batch: Batch) -> tuple[ScorerInputs, Tensor]:
        """What the network reads of a batch, and the exact retrieval scores [B, C]."""
        config = self.config
        rows = torch.from_numpy(np.maximum(batch["rows"], 0).astype(np.int64))
        user = torch.from_numpy(batch["user_emb"])
        vectors = self.vectors[rows]
        retrieval_scores = torch.bmm(vectors, user[:, :, None])[..., 0]
        centered = retrieval_scores - config.score_center
        items = batch["items"][:, -N_RECENT:]
        ages_s = batch["ages_s"][:, -N_RECENT:]
        since_newest_s = ages_s - ages_s[:, -1:]
        inputs = ScorerInputs(
            user=user * config.user_scale,
            vectors=vectors * config.vector_scale,
            scores=centered,
            side=self._side(batch, rows, centered / config.score_spread),
            recent=self.vectors[torch.from_numpy(np.maximum(items, 0).astype(np.int64))]
            * config.vector_scale,
            recent_kinds=self._kinds(batch),
            recent_gaps=torch.from_numpy(gap_buckets(since_newest_s).astype(np.int64)),
        )
        return inputs, retrieval_scores

    def score(self, batch: Batch) -> Batch:
        """Score the candidates of each request.

        Args:
            batch: "items", "kinds", "ages_s" [B, L] as for the user tower; "user_emb" [B, D];
                "rows" int32, "sources" int8, "ranks" int32 [B, C], row -1 is padding.

        Returns:
            "retrieval_scores" [B, C], exact inner products whatever the source; "probabilities"
            [B, C, A], of each action; "utility" [B, C], -inf where there is no finite estimate.
        """
        with torch.inference_mode():
            inputs, retrieval_scores = self.inputs(batch)
            probabilities = action_probabilities(self.network(inputs), self.config)
            utility = (probabilities @ self._weights).numpy()
        usable = (batch["rows"] >= 0) & np.isfinite(utility)
        return {
            "retrieval_scores": retrieval_scores.numpy(),
            "probabilities": probabilities.numpy(),
            "utility": np.where(usable, utility, -np.inf).astype(np.float32),
        }

    def _side(self, batch: Batch, rows: Tensor, scores: Tensor) -> Tensor:
        """Score, popularity, and per source whether it brought the candidate and at what rank."""
        source = torch.from_numpy(batch["sources"].astype(np.int64)).clamp(0, _N_SOURCES - 1)
        is_source = nn.functional.one_hot(source, _N_SOURCES).float()
        log_rank = torch.from_numpy(np.log1p(np.maximum(batch["ranks"], 0)).astype(np.float32))
        return torch.cat(
            [
                scores[..., None],
                self.popularity[rows][..., None],
                is_source,
                is_source * (log_rank[..., None] - 4.0),  # near 0 in the middle of a list of 200
            ],
            dim=-1,
        )

    def _kinds(self, batch: Batch) -> Tensor:
        kinds = np.where(batch["items"] >= 0, batch["kinds"], 0)[:, -N_RECENT:]
        n_kinds = len(self.config.actions) + FIRST_KIND
        return torch.from_numpy(np.where(kinds < n_kinds, kinds, 1).astype(np.int64))


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


def save_scorer(scorer: CandidateScorer, directory: Path) -> None:
    """Write `scorer.safetensors` and `scorer.json` into `directory`."""
    state = {f"network.{name}": t.contiguous() for name, t in scorer.network.state_dict().items()}
    save_file({**state, "popularity": scorer.popularity.contiguous()}, directory / SCORER_FILE)
    document = json.dumps(asdict(scorer.config), indent=2)
    (directory / SCORER_CONFIG_FILE).write_text(document + "\n")


def load_scorer(directory: Path) -> CandidateScorer:
    """The scorer of a bundle directory, with the item vectors that lie beside it.

    Raises:
        BundleCorrupt: a file is missing, broken or does not fit the others.
    """
    config = _read_config(directory / SCORER_CONFIG_FILE)
    state = load_tensors(directory / SCORER_FILE)
    popularity = state.pop("popularity", torch.empty(0))
    vectors = load_tensors(directory / ITEM_VECTORS_FILE).get("vectors", torch.empty(0))
    shape = (config.n_items, config.embedding_dim)
    if tuple(vectors.shape) != shape or len(popularity) != config.n_items:
        raise BundleCorrupt(
            f"scorer in {directory} expects {shape} item vectors, found {tuple(vectors.shape)} and "
            f"{len(popularity)} popularities; fetch the bundle again"
        )
    network = ScorerNetwork(config)
    names = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    load_state(network, names, directory / SCORER_FILE)
    return CandidateScorer(config, network.eval(), vectors, popularity)


def item_popularity(counts: NDArray[np.int64]) -> FloatArray:
    """Log of engagements per item in standard units, [N]."""
    logs = np.log1p(counts.astype(np.float64))
    standard = (logs - logs.mean()) / max(float(logs.std()), 1e-6)
    return np.asarray(standard, dtype=np.float32)


def _read_config(path: Path) -> ScorerConfig:
    try:
        fields = json.loads(path.read_text())
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return ScorerConfig(**{**fields, **lists})
    except (OSError, ValueError, TypeError) as error:
        message = f"{path} cannot be read as a scorer config ({error}); fetch the bundle again"
        raise BundleCorrupt(message) from error
