"""Settings of learning: models, their training, the gate before publishing, and the schedule.

Part of the tree of `settings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recsys.joint_settings import JointSettings
from recsys.settings_branch import Branch, Positive, Share


class TowerSettings(Branch):
    """The two towers and their training."""

    embedding_dim: Annotated[int, Field(ge=8, le=1024)] = 128
    n_layers: Positive = 2
    n_heads: Positive = 2
    history_length: Annotated[int, Field(ge=4, le=1000)] = 200
    """Engagements the user tower reads."""
    dropout: Share | None = None
    """None follows the data: 0.2 where items have a hundred engagements each, 0.5 where a dozen."""
    n_negatives: Annotated[int, Field(ge=0)] = 2048
    """Shared sampled negatives per step, with log-Q correction; 0 is the full softmax."""
    batch_size: Positive = 32
    """Full-length histories per step; shorter ones fill the same number of tokens."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    weight_average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share of the running average of the weights that a step keeps; the average is what is served.
    0 serves the last weights."""
    epochs: Positive = 20
    max_steps: Annotated[int, Field(ge=0)] = 0
    """The schedule ends after so many steps if the epochs have not ended before; 0 is no limit."""
    max_minutes: Annotated[float, Field(ge=0)] = 40.0
    """The schedule ends after this time if the epochs have not ended before; 0 is no limit, and
    then the same data and seed give the same weights."""
    catch_up: Share = 0.05
    """Length of a last pass over each user's newest events, what the scorer learned from included,
    as a share of the schedule, at least one epoch; 0 leaves it out."""
    shrink: bool = True
    """Draw the user's newest state towards the one before it and towards the common state, as far
    as that predicts events the towers did not learn from."""
    id_dropout: Share = 0.02
    """Share of the items with content whose id embedding is hidden in a step, so that content
    alone must do."""
    n_content_buckets: Positive = 16_384
    """Hash buckets of content tokens (title words, categories, creator)."""


class ScorerSettings(Branch):
    """The scorer and its training."""

    hidden_dims: tuple[int, ...] = (128, 64)
    batch_size: Positive = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    epochs: Positive = 4
    max_minutes: Annotated[float, Field(ge=0)] = 6.0
    """0 is no limit."""
    utility_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each kind's probability in the utility; a kind not named weighs 1, a negative
    kind -1."""
    successors: bool = True
    """Read what followed what: a table of the likeliest successors of each item, in the bundle."""
    position_head: bool = False
    """Learn from logged slates too, with a term for how much each position is looked at; serving
    leaves the term out. Without logged slates it changes nothing."""


class WarmStartSettings(Branch):
    """What a training that starts from the stable bundle does otherwise."""

    epochs: Positive = 3
    max_minutes: Annotated[float, Field(ge=0)] = 2.0
    """Of the towers, and again of the scorer; a shorter limit of their own stays. 0 is no limit."""
    rate_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Peak learning rate, as a share of what a training from nothing takes."""


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
    diverted_to: str = ""
    """`EXPERIMENT_ID:ARM`: leave out what users did with slates of the experiment's other arms;
    empty learns from everything."""
    min_engagements: Positive = 200
    """Fewer than this is refused by the data checks."""
    towers: TowerSettings = TowerSettings()
    scorer: ScorerSettings = ScorerSettings()
    joint: JointSettings = JointSettings()
    warm: WarmStartSettings = WarmStartSettings()


class GateSettings(Branch):
    """The offline check before a bundle is published."""

    metric: Literal["ndcg@10", "recall@10", "hit@10"] = "ndcg@10"
    max_evaluated: Positive = 5_000
    """Held-out engagements evaluated at most, drawn at random by seed."""
    min_ratio_popularity: Annotated[float, Field(ge=0)] = 1.0
    """The page's metric must be at least so many times that of popularity."""
    max_drop_vs_stable: Share = 0.05
    """The metric may be at most this share below the stable bundle's on the same examples."""
    against_stable: Literal["not_shown_worse", "shown_not_worse", "off"] = "not_shown_worse"
    """`not_shown_worse` refuses a drop beyond the allowed one whose 95 % interval excludes 0;
    `shown_not_worse` demands that the whole interval lies within the allowed drop."""
    min_coverage_ratio: Annotated[float, Field(ge=0)] | None = 0.5
    """Least catalogue coverage of the page as a share of the stable bundle's; 0 or none: off."""
    min_diversity_ratio: Annotated[float, Field(ge=0)] | None = 0.5
    """Least diversity within a page, by categories and creators, as a share of the stable
    bundle's; 0 or none: off."""
    min_new_item_ratio: Annotated[float, Field(ge=0)] | None = 0.2
    """Least share of the page that new items take, as a share of the stable bundle's; 0 or none:
    off."""
    max_churn: Annotated[float, Field(ge=0, le=1)] | None = 0.98
    """Largest share of the page's items that may not be on the stable bundle's page of the same
    user; 0 or none: off."""
    max_calibration_error: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    """Largest expected calibration error of the page's probabilities; 0 or none: off."""
    max_cost_ratio: Annotated[float, Field(ge=0)] | None = 3.0
    """Largest processor time of scoring a request, in times the stable bundle's; 0 or none: off."""


class ScheduleSettings(Branch):
    """When bundles are trained without being asked."""

    train: Literal["off", "hourly", "daily", "continuous", "on_drift"] = "off"
    at: Annotated[int, Field(ge=0, le=23)] = 3
    """Hour of the day in UTC of a daily training."""
    min_new_engagements: Positive = 1_000
    """Fewer new ones since the training before are waited for."""
    rollout: str = ""
    """Plan by which the controller rolls out what the schedule published: `fast`, `standard`,
    `careful` or the path of a TOML file; empty leaves that to operators."""
    rest_minutes: Annotated[float, Field(ge=0)] = 5.0
    """Pause after a training before `continuous` and `on_drift` begin another; a failed one is
    tried again after it, and after twice as long each time it fails again."""
    warm_start: bool = True
    """Begin from the stable bundle's weights."""
    n_threads: Positive = 1
    """Threads of a scheduled training, so that serving keeps its cores."""
    max_drift: Annotated[float, Field(gt=0)] = 0.2
    """Largest population stability index of a feature before `on_drift` trains."""
    drift_check_minutes: Annotated[float, Field(gt=0)] = 60.0
    """How often `on_drift` looks."""
