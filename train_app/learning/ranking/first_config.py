"""The config that a scorer's training begins with: scales of its inputs, base rates of actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.item_successors import ItemSuccessors
from recsys.learning_settings import ScorerSettings
from recsys.scorer import wanted_items
from recsys.scorer_network import ScorerConfig
from recsys.types import FloatArray, Source
from train_app.learning.ranking.scorer_examples import ScorerExamples

_SCALED_BY = 512
"""Examples by which inputs are scaled."""


def action_weights(
    kinds: Sequence[str], negative_kinds: Sequence[str], named: dict[str, float]
) -> tuple[float, ...]:
    """Worth of each kind: as named, else 1, or -1 for a negative kind."""
    negative = set(negative_kinds)
    return tuple(named.get(kind, -1.0 if kind in negative else 1.0) for kind in kinds)


def first_config(
    examples: ScorerExamples,
    actions: Sequence[str],
    negative_kinds: Sequence[str],
    vectors: FloatArray,
    settings: ScorerSettings,
    successors: ItemSuccessors | None,
) -> ScorerConfig:
    """The config before anything is learned: scales of the inputs and base rates of actions."""
    some = examples.pick(np.arange(min(len(examples), _SCALED_BY)))
    usable = some.rows >= 0
    some_vectors = vectors[np.maximum(some.rows, 0)]
    scores = np.einsum("ecd,ed->ec", some_vectors, some.user_emb)[usable]
    is_negative = tuple(kind in set(negative_kinds) for kind in actions)
    chances = np.zeros(0, np.float32)
    if successors is not None:
        items = wanted_items(some.history["items"], some.history["kinds"], is_negative)
        chances = successors.log_chances(items, some.rows)[usable]
    acted = examples.labels[examples.labels.any(-1)]  # [n, A]
    rates = (acted.sum(0) + 0.5) / (len(acted) + 1.0)
    return ScorerConfig(
        n_items=len(vectors),
        embedding_dim=vectors.shape[1],
        hidden_dims=settings.hidden_dims,
        actions=tuple(actions),
        utility_weights=action_weights(actions, negative_kinds, settings.utility_weights),
        score_center=float(scores.mean()) if scores.size else 0.0,
        score_spread=max(float(scores.std()), 1e-3) if scores.size else 1.0,
        user_scale=1.0 / max(_typical_size(examples.user_emb), 1e-3),
        vector_scale=1.0 / max(_typical_size(vectors), 1e-3),
        action_log_odds=tuple(np.log(rates / (1 - rates)).tolist()),
        action_trust=(0.0,) * len(actions),
        is_negative=is_negative,
        n_sources=len(Source),
        reads_successors=successors is not None,
        chance_center=float(chances.mean()) if chances.size else 0.0,
        chance_spread=max(float(chances.std()), 1e-3) if chances.size else 1.0,
    )


def _typical_size(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 1.0
