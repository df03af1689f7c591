"""Softmax cross-entropy over a shared set of items, fused with its gradient.

The logits of a chunk of predictions live only while its gradient is computed, so the memory that
moves does not grow with predictions x items. Legend: P predictions, n shared items, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 512
"""Predictions at a time: their logits against a thousand items stay in a core's cache."""


class _SharedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        positives: Tensor,
        shared: Tensor,
        corrections: Tensor,
        positive_rows: Tensor,
        shared_rows: Tensor,
    ) -> Tensor:
        grad_states = torch.empty_like(states)
        grad_positives = torch.empty_like(positives)
        grad_shared = torch.zeros(shared.shape, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32)
        for start in range(0, len(states), _CHUNK):
            part = slice(start, start + _CHUNK)
            state, positive = states[part], positives[part]
            is_same = positive_rows[part, None] == shared_rows
            logits = (state @ shared.T).float().add_(corrections)
            logits.masked_fill_(is_same, -torch.inf)
            own = (state * positive).sum(-1, dtype=torch.float32)
            log_sum = torch.logaddexp(own, torch.logsumexp(logits, dim=1))
            loss += (log_sum - own).sum()
            weights = logits.sub_(log_sum[:, None]).exp_().to(shared.dtype)
            excess = torch.expm1(own - log_sum).to(states.dtype)[:, None]
            grad_states[part] = weights @ shared + excess * positive
            grad_positives[part] = excess * state
            grad_shared += weights.T @ state
        ctx.save_for_backward(grad_states, grad_positives, grad_shared.to(shared.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        states, positives, shared = ctx.saved_tensors
        return states * grad_loss, positives * grad_loss, shared * grad_loss, None, None, None


def shared_softmax_loss(
    states: Tensor,
    positives: Tensor,
    shared: Tensor,
    corrections: Tensor,
    positive_rows: Tensor,
    shared_rows: Tensor,
) -> Tensor:
    """Sum over predictions of -log softmax of the true item among itself and the shared items.

    Args:
        states: [P, D] user embeddings.
        positives: [P, D] vectors of the true items.
        shared: [n, D] vectors of the shared items; where one is the true item it does not count.
        corrections: [n] float32 added to the shared items' logits (log-Q).
        positive_rows: [P] item rows.
        shared_rows: [n] item rows.
    """
    loss: Tensor = _SharedSoftmax.apply(  # type: ignore[no-untyped-call]
        states, positives, shared, corrections, positive_rows, shared_rows
    )
    return loss
