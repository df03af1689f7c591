"""The position head: what of a click in a logged slate is owed to the place it was shown at.

The position-based model, P(click | item, position) = examination(position) * relevance(item)
(Craswell, Zoeter, Taylor & Ramsey, "An experimental comparison of click position-bias models",
WSDM 2008): a shallow tower of the position alone beside the scorer, added in logits (Zhao et al.,
"Recommending what video to watch next", RecSys 2019). It lives while the scorer is trained; no
bundle holds it, so serving leaves it out. E slates, C places.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys.scorer import CandidateScorer
from recsys.scorer_network import Estimates
from train_app.learning.adam import AdamW
from train_app.learning.ranking.scorer_validation import engaged_with
from train_app.learning.slates.scorer_slates import ShownExamples

_REPORTED = (2, 5, 10)
"""Positions, counted from 1, whose examination is told among a training's metrics."""
_POSITION_RATE = 30.0
"""Learning rate of the position head, in times the network's: a few numbers, seen in every step,
have to move by whole logits."""


class PositionHead(nn.Module):
    """The log of each position's examination, against that of the first."""

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(max(n_positions, 1)))

    def forward(self, positions: NDArray[np.int32]) -> Tensor:
        """What to add to the estimates, [E, C]; 0 where the position is not known (-1)."""
        places = torch.from_numpy(np.maximum(positions, 0).astype(np.int64))
        logs = self.logits - self.logits[0]
        return logs[places].masked_fill(torch.from_numpy(positions < 0), 0.0)

    def metrics(self) -> dict[str, float]:
        """Examination of some positions as a share of the first one's."""
        shares = torch.exp(self.logits.detach() - self.logits.detach()[0]).tolist()
        return {f"scorer_examination@{k}": shares[k - 1] for k in _REPORTED if k <= len(shares)}


def slate_loss(
    estimates: Estimates, head: PositionHead, shown: ShownExamples, engaged: NDArray[np.bool_]
) -> Tensor:
    """Of an engagement in a slate: minus the log of the chance that it was with that item.

    That chance is examination * exp(estimate) as a share of the slate's sum: under the model, the
    estimates that fit best are the logs of relevance, whatever stood above. What was not shown
    had no chance and says nothing.

    Args:
        engaged: [E, C] what the user acted on in a way that is not negative.
    """
    total = estimates.base + estimates.residual + head(shown.positions)
    total = total.masked_fill(torch.from_numpy(shown.examples.rows < 0), -torch.inf)
    log_shares = torch.log_softmax(total, dim=1)[torch.from_numpy(engaged)]
    return -log_shares.sum() / max(len(log_shares), 1)


class SlateSteps:
    """What logged slates add to each step, and the head that explains their positions."""

    def __init__(
        self,
        shown: ShownExamples,
        is_positive: NDArray[np.bool_],
        betas: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        self.head = PositionHead(int(shown.positions.max(initial=0)) + 1)
        self._shown = shown
        self._is_positive = is_positive
        self._rng = rng
        self._optimizer = AdamW([self.head.logits], 0.0, betas)

    def __len__(self) -> int:
        """Number of slates."""
        return len(self._shown)

    def batches(self, n_batches: int) -> list[NDArray[np.int64]]:
        """All slates once, in so many batches."""
        return np.array_split(self._rng.permutation(len(self._shown)), n_batches)

    def loss(self, scorer: CandidateScorer, index: NDArray[np.int64]) -> Tensor:
        """Of one batch; forgets the gradients of the one before."""
        self._optimizer.clear_gradients()
        shown = self._shown.pick(index)
        inputs, _ = scorer.inputs(shown.examples.batch())
        engaged = engaged_with(shown.examples, self._is_positive)
        return slate_loss(scorer.network(inputs), self.head, shown, engaged)

    def step(self, learning_rate: float) -> None:
        """Move the head."""
        if self.head.logits.grad is not None:
            self._optimizer.step(learning_rate * _POSITION_RATE)

    def metrics(self) -> dict[str, float]:
        """How many slates there were, and how much their positions were looked at."""
        return {"scorer_slates": float(len(self._shown)), **self.head.metrics()}
