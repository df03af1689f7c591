"""AdamW as plain state and one call, so that a checkpoint holds it and nothing else is imported.

`torch.optim` loads torch's compiler with it, which costs every training process seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_EPSILON = 1e-8


class AdamW:
    """Decoupled weight decay Adam (Loshchilov & Hutter 2019) over `parameters`."""

    def __init__(
        self, parameters: Sequence[Tensor], weight_decay: float, betas: tuple[float, float]
    ) -> None:
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._betas = betas
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._n_steps = 0

    def clear_gradients(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient."""
        self._n_steps += 1
        places = [at for at, parameter in enumerate(self._parameters) if parameter.grad is not None]
        steps = torch.tensor(float(self._n_steps))
        with torch.no_grad():
            # The kernel that torch.optim calls: one pass over memory instead of seven.
            torch._fused_adamw_(
                [self._parameters[at] for at in places],
                [gradient for at in places if (gradient := self._parameters[at].grad) is not None],
                [self._means[at] for at in places],
                [self._squares[at] for at in places],
                [],
                [steps for _ in places],
                lr=learning_rate,
                beta1=self._betas[0],
                beta2=self._betas[1],
                weight_decay=self._weight_decay,
                eps=_EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """Everything but the parameters, by name."""
        moments = {f"mean.{at}": tensor for at, tensor in enumerate(self._means)}
        squares = {f"square.{at}": tensor for at, tensor in enumerate(self._squares)}
        return {**moments, **squares, "n_steps": torch.tensor(self._n_steps)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` answered."""
        self._n_steps = int(state["n_steps"])
        for at in range(len(self._parameters)):
            self._means[at].copy_(state[f"mean.{at}"])
            self._squares[at].copy_(state[f"square.{at}"])


def clip_gradients(parameters: Sequence[Tensor], longest: float) -> float:
    """Shorten all gradients together to length `longest`; the length they had."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    length = torch.stack([gradient.norm() for gradient in gradients]).norm()
    if length > longest:
        for gradient in gradients:
            gradient.mul_(longest / length)
    return float(length)
