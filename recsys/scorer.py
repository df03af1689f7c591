"""The scorer: how likely a user engages with each candidate, in which way, and what that is worth.

An estimate is the retrieval score plus a learned residual, so an untrained scorer keeps the order
of retrieval. Legend: B requests, C candidates, R newest history events, D width, F hidden width,
A actions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from recsys.errors import BundleCorrupt
from recsys.features import FIRST_KIND
from recsys.item_successors import ItemSuccessors
from recsys.scorer_network import (
    N_RECENT,
    ScorerConfig,
    ScorerInputs,
    ScorerNetwork,
    action_probabilities,
)
from recsys.tower_networks import gap_buckets
from recsys.two_tower import ITEM_VECTORS_FILE, load_state, load_tensors
from recsys.types import NO_ROW, Batch, FloatArray, RowArray

SCORER_FILE = "scorer.safetensors"
SCORER_CONFIG_FILE = "scorer.json"
_SUCCESSORS = "successors."


class CandidateScorer:
    """A scorer with the item facts it reads: inference, NumPy in and out.

    Args:
        vectors: [N, D] item vectors of the bundle.
        popularity: [N] log of engagements in training, in standard units.
        successors: what follows what, where the config says that it reads them.
    """

    def __init__(
        self,
        config: ScorerConfig,
        network: ScorerNetwork,
        vectors: Tensor,
        popularity: Tensor,
        successors: ItemSuccessors | None = None,
    ) -> None:
        if config.reads_successors and successors is None:
            raise ValueError("a scorer that reads successors was given none")
        self.config = config
        self.network = network
        self.vectors = vectors
        self.popularity = popularity
        self.successors = successors
        self._weights = torch.tensor(config.utility_weights)

    def with_network(self, config: ScorerConfig, network: ScorerNetwork) -> CandidateScorer:
        """Another network over the same item facts."""
        return CandidateScorer(config, network, self.vectors, self.popularity, self.successors)

    def inputs(self, batch: Batch) -> tuple[ScorerInputs, Tensor]:
        """What the network reads of a batch, and the exact retrieval scores [B, C]."""
        return self.network_inputs(
            batch,
            torch.from_numpy(batch["user_emb"]),
            self.vectors[_row_tensor(batch["rows"])],
            self.vectors[_row_tensor(recent_items(batch))],
        )

    def network_inputs(
        self, batch: Batch, user: Tensor, vectors: Tensor, recent: Tensor
    ) -> tuple[ScorerInputs, Tensor]:
        """The same from embeddings that may still be learning.

        Args:
            batch: as for `score`, without "user_emb".
            user: [B, D].
            vectors: [B, C, D] of the candidates.
            recent: [B, R, D] of `recent_items`.
        """
        config = self.config
        retrieval_scores = torch.bmm(vectors, user[:, :, None])[..., 0]
        centered = retrieval_scores - config.score_center
        ages_s = batch["ages_s"][:, -N_RECENT:]
        since_newest_s = ages_s - ages_s[:, -1:]
        rows = _row_tensor(batch["rows"])
        inputs = ScorerInputs(
            user=user * config.user_scale,
            vectors=vectors * config.vector_scale,
            scores=centered,
            side=self._side(batch, rows, centered / config.score_spread),
            recent=recent * config.vector_scale,
            recent_kinds=self._kinds(batch),
            recent_gaps=torch.from_numpy(gap_buckets(since_newest_s).astype(np.int64)),
            chances=torch.from_numpy(self.chances(batch)),
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
            probabilities, worth = self.estimates(inputs)
        utility = worth.numpy()
        usable = (batch["rows"] >= 0) & np.isfinite(utility)
        return {
            "retrieval_scores": retrieval_scores.numpy(),
            "probabilities": probabilities.numpy(),
            "utility": np.where(usable, utility, -np.inf).astype(np.float32),
        }

    def estimates(self, inputs: ScorerInputs) -> tuple[Tensor, Tensor]:
        """Probability of each action [B, C, A], and the utility [B, C] they are worth together."""
        probabilities = action_probabilities(self.network(inputs), self.config)
        return probabilities, probabilities @ self._weights

    def chances(self, batch: Batch) -> FloatArray:
        """Log chances [B, C] by the newest items alone, in standard units; 0 if it reads none."""
        config = self.config
        if self.successors is None or not config.reads_successors:
            return np.zeros(batch["rows"].shape, np.float32)
        items = wanted_items(batch["items"], batch["kinds"], config.is_negative)
        chances = self.successors.log_chances(items, batch["rows"])
        chances -= np.float32(config.chance_center)
        chances /= np.float32(config.chance_spread)
        return chances

    def _side(self, batch: Batch, rows: Tensor, scores: Tensor) -> Tensor:
        """Score, popularity, and per source whether it brought the candidate and at what rank.

        A source that was not there when the scorer was trained has zeros for both.
        """
        source = torch.from_numpy(np.maximum(batch["sources"], 0))
        known = torch.arange(self.config.n_sources, dtype=source.dtype)
        is_source = (source[..., None] == known).float()
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


def recent_items(batch: Batch) -> RowArray:
    """The newest history items that candidates attend to, [B, R]; -1 is padding."""
    items: RowArray = batch["items"][:, -N_RECENT:]
    return items


def wanted_items(
    items: RowArray, kinds: NDArray[np.uint8], is_negative: Sequence[bool]
) -> RowArray:
    """Histories [B, L] without what the user did not want, which nothing is a successor of.

    Args:
        kinds: [B, L] as the user tower reads them.
        is_negative: of the scorer's actions.
    """
    is_unwanted = np.zeros(256, np.bool_)
    is_unwanted[FIRST_KIND : FIRST_KIND + len(is_negative)] = is_negative
    return np.where(is_unwanted[kinds], NO_ROW, items).astype(np.int32, copy=False)


def _row_tensor(rows: RowArray) -> Tensor:
    """Rows to look up; padding reads row 0."""
    return torch.from_numpy(np.maximum(rows, 0).astype(np.int64))


def save_scorer(scorer: CandidateScorer, directory: Path) -> None:
    """Write `scorer.safetensors` and `scorer.json` into `directory`."""
    state = {f"network.{name}": t.contiguous() for name, t in scorer.network.state_dict().items()}
    if scorer.config.reads_successors and scorer.successors is not None:
        for name, array in scorer.successors.arrays().items():
            state[_SUCCESSORS + name] = torch.from_numpy(np.ascontiguousarray(array))
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
    successors = _take_successors(state, config, directory)
    network = ScorerNetwork(config)
    names = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    load_state(network, names, directory / SCORER_FILE)
    return CandidateScorer(config, network.eval(), vectors, popularity, successors)


def _take_successors(
    state: dict[str, Tensor], config: ScorerConfig, directory: Path
) -> ItemSuccessors | None:
    """The table among the tensors of a scorer's file, which are taken out of `state`."""
    names = [name for name in state if name.startswith(_SUCCESSORS)]
    arrays = {name.removeprefix(_SUCCESSORS): state.pop(name).numpy() for name in names}
    if not config.reads_successors:
        return None
    try:
        return ItemSuccessors.of_arrays(arrays, config.n_items)
    except ValueError as error:
        raise BundleCorrupt(
            f"scorer in {directory} cannot be read: {error}; fetch the bundle again"
        ) from error


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
