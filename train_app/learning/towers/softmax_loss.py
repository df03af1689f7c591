"""Softmax cross-entropy over a shared set of items, fused with its gradient.

The logits of a chunk of predictions live only while its gradient is computed, so the memory that
moves does not grow with predictions x items. Legend: P predictions, n shared items, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_CHUNK = 512
"""Predictions at a time: their logits against a thousand items stay in a core's cache. Predictions
are padded to whole chunks, because a new shape costs the library more than it saves."""


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
        n_real: int,
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
            real = max(min(n_real - start, _CHUNK), 0)
            loss += (log_sum - own)[:real].sum()
            weights = logits.sub_(log_sum[:, None]).exp_().to(shared.dtype)
            excess = torch.expm1(own - log_sum).to(states.dtype)[:, None]
            weights[real:] = 0
            excess[real:] = 0
            grad_states[part] = weights @ shared + excess * positive
            grad_positives[part] = excess * state
            grad_shared += weights.T @ state
        ctx.save_for_backward(grad_states, grad_positives, grad_shared.to(shared.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        states, positives, shared = ctx.saved_tensors
        grads = states * grad_loss, positives * grad_loss, shared * grad_loss
        return *grads, None, None, None, None


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
    n_real = len(states)
    padding = -n_real % _CHUNK
    states, positives = (functional.pad(part, (0, 0, 0, padding)) for part in (states, positives))
    loss: Tensor = _SharedSoftmax.apply(  # type: ignore[no-untyped-call]
        states,
        positives,
        shared,
        corrections,
        functional.pad(positive_rows, (0, padding), value=-1),
        shared_rows,
        n_real,
    )
    return loss
