"""Settings of learning: the models, their training, and the gate before a bundle is published.

Part of the tree of `settings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recsys.settings_branch import Branch, Positive, Share


class TowerSettings(Branch):
    """The two towers and their training."""

    embedding_dim: Annotated[int, Field(ge=8, le=1024)] = 64
    n_layers: Positive = 2
    n_heads: Positive = 2
    history_length: Annotated[int, Field(ge=4, le=1000)] = 200
    """Engagements the user tower reads."""
    dropout: Share = 0.2
    n_negatives: Annotated[int, Field(ge=0)] = 512
    """Shared sampled negatives per step, with log-Q correction; 0 is the full softmax."""
    batch_size: Positive = 32
    """Full-length histories per step; shorter ones fill the same number of tokens."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    epochs: Positive = 30
    max_minutes: Annotated[float, Field(gt=0)] = 10.0
    """The learning-rate schedule ends after this time if the epochs have not ended before."""
    id_dropout: Share = 0.02
    """Share of items whose id embedding is hidden in a step, so that content alone must do."""
    n_content_buckets: Positive = 16_384
    """Hash buckets of content tokens (title words, categories, creator)."""


class ScorerSettings(Branch):
    """The scorer and its training."""

    hidden_dims: tuple[int, ...] = (128, 64)
    batch_size: Positive = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    epochs: Positive = 4
    max_minutes: Annotated[float, Field(gt=0)] = 3.0
    utility_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each kind's probability in the utility; a kind not named weighs 1, a negative
    kind -1."""


class TrainSettings(Branch):
    """Training jobs."""

    n_workers: Annotated[int, Field(ge=0)] = 0
    """Ray Train workers; 0 trains inside the job's own process."""
    seed: int = 0
    n_threads: Annotated[int, Field(ge=0)] = 0
    """Torch threads per worker; 0 is one per core of the machine."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` uses bfloat16 where the processor has it."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """Priority of a training process: above 0 gives way to serving."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 30.0
    label_window_s: Positive = 3_600
    """An impression's labels are the engagements within this time after it."""
    memory_mb: Annotated[int, Field(ge=256)] = 2_000
    """Memory of the joins that make examples; what does not fit goes to disk, in MB."""
    holdout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Newest share of the engagements, by time, that is only evaluated on."""
    min_engagements: Positive = 200
    """Fewer than this is refused by the data checks."""
    towers: TowerSettings = TowerSettings()
    scorer: ScorerSettings = ScorerSettings()


class GateSettings(Branch):
    """The offline check before a bundle is published."""

    metric: Literal["ndcg@10", "recall@10", "hit@10"] = "ndcg@10"
    max_evaluated: Positive = 5_000
    """Held-out engagements evaluated at most, drawn at random by seed."""
    min_ratio_popularity: Annotated[float, Field(ge=0)] = 1.0
    """The page's metric must be at least so many times that of popularity."""
    max_drop_vs_stable: Share = 0.05
    """The metric may be at most this share below the stable bundle's on the same examples."""
