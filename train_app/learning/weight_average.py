"""A running average of a model's weights, which generalises better than the last of them.

Exponential moving average (Polyak & Juditsky 1992; with its ramp as used by Tan & Le 2019): noise
of single steps cancels out. Knows no schedule and no files.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_RAMP = 10
"""After t steps at most (1 + t) / (10 + t) of the average is kept, so that first weights fade."""


class WeightAverage:
    """The average of `parameters` over the steps so far.

    Args:
        decay: share of the average that each step keeps, 0-1; 0 averages nothing.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._n_steps = 0
        self._averages = [value.detach().clone() for value in self._parameters] if decay else []

    def update(self) -> None:
        """Take the present weights in."""
        if not self._averages:
            return
        self._n_steps += 1
        kept = min(self._decay, (1 + self._n_steps) / (_RAMP + self._n_steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._parameters, 1 - kept)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Within, the parameters are the average."""
        trained = [value.detach().clone() for value in self._parameters]
        self.adopt()
        try:
            yield
        finally:
            _copy(trained, self._parameters)

    def adopt(self) -> None:
        """Make the average the parameters' values; where nothing was averaged they stay."""
        if self._n_steps:
            _copy(self._averages, self._parameters)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold, by name."""
        averages = {str(at): value for at, value in enumerate(self._averages)}
        return {**averages, "n_steps": torch.tensor(self._n_steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` answered."""
        self._n_steps = int(state["n_steps"])
        _copy([state[str(at)] for at in range(len(self._averages))], self._averages)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=False):
            target.copy_(source)
