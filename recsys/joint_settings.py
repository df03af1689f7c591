"""Settings of the joint training of retrieval and scorer: each idea is one switch.

Part of the tree of `settings`, under `train.joint`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recsys.settings_branch import Branch, Positive, Share

Weight = Annotated[float, Field(ge=0)]


class JointSettings(Branch):
    """Retrieval and scorer trained together, after each was trained for itself.

    With every weight at 0 they stay as they were trained: separately.
    """

    survival: Weight = 0.0
    """Weight of the end-to-end loss: the true item survives retrieval and the scorer."""
    stages: Weight = 1.0
    """Weight of each stage's own listwise loss, while any other weight is above 0."""
    distillation: Weight = 0.0
    """Weight of retrieval learning the scorer's order."""
    diversity: Weight = 0.0
    """Weight of the expected similarity of two items of the page."""
    stability: Weight = 0.0
    """Weight of retrieval staying with the order it had before the joint training."""
    n_tail: Annotated[int, Field(ge=8, le=4096)] = 128
    """Items drawn per moment from beyond what retrieval proposes."""
    page: Positive = 10
    """Places of the page that an item must reach to survive."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the comparisons between items, in logits."""
    epochs: Positive = 2
    batch_size: Positive = 64
    tower_rate: Annotated[float, Field(ge=0)] = 1e-4
    """Learning rate of the towers; 0 leaves them as they are."""
    scorer_rate: Annotated[float, Field(ge=0)] = 5e-4
    only_if_better: bool = True
    """Whether the pair stays as it was trained separately unless the moments kept aside prefer the
    joint one; without it the joint pair is taken as it is, unless its loss was lost."""
    max_churn: Share = 1.0
    """Share of retrieval's first `page` items that may change, over the moments kept aside."""
    max_minutes: Annotated[float, Field(gt=0)] = 5.0

    @property
    def is_on(self) -> bool:
        """Whether there is anything to train jointly."""
        return max(self.survival, self.distillation, self.diversity, self.stability) > 0


RECIPES = {
    "separate": JointSettings(),
    "distilled": JointSettings(distillation=1.0),
    "survival": JointSettings(survival=1.0),
    "survival + distilled": JointSettings(survival=1.0, distillation=1.0),
    "survival + diverse": JointSettings(survival=1.0, diversity=0.3),
    "survival + stable": JointSettings(survival=1.0, stability=1.0),
}
"""The ablation ladder: each rung switches one idea on."""
