"""How far to trust the retrieval score and what follows what, before any network is trained.

A conditional logit (McFadden 1974) with two weights, by Newton's method: the best that the two
numbers can do alone, from where the scorer's network goes on. Legend: E examples, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MAX_STEPS = 25
_DAMPING = 1e-3
_SMALL = 1e-6
_LEAST, _MOST = 0.05, 20.0
Numbers = NDArray[np.float64]


def first_blend(
    scores: Numbers, chances: Numbers, usable: NDArray[np.bool_], engaged: NDArray[np.bool_]
) -> tuple[float, float]:
    """Weights of the score and of the chance under which the candidates engaged with are likeliest.

    Args:
        scores: [E, C] of retrieval, centered.
        chances: [E, C] log chances in standard units.
        usable: [E, C] what is no padding.
        engaged: [E, C] what the user acted on; examples without any say nothing.

    Returns:
        The weight of the score, above 0, and that of the chance; (1, 0) where none can be fitted.
    """
    told = engaged.any(axis=1)
    inputs = np.stack([scores[told], chances[told]], axis=-1)
    usable, engaged = usable[told], engaged[told] & usable[told]
    weights = np.array([1.0, 0.0])
    best, best_loss = weights, _loss(inputs, usable, engaged, weights)
    for _ in range(_MAX_STEPS if len(inputs) else 0):
        shares = _shares(inputs, usable, weights)
        n_engaged = engaged.sum(axis=1)
        means = np.einsum("ec,eck->ek", shares, inputs)
        gradient = (inputs[engaged]).sum(0) - n_engaged @ means
        spread = np.einsum("e,ec,eck,ecl->kl", n_engaged, shares, inputs, inputs)
        curvature = spread - np.einsum("e,ek,el->kl", n_engaged, means, means)
        step = np.linalg.solve(
            curvature + _DAMPING * np.eye(2) * max(curvature.max(), 1.0), gradient
        )
        weights = weights + step
        loss = _loss(inputs, usable, engaged, weights)
        if not np.isfinite(loss):
            break
        if loss < best_loss:
            best, best_loss = weights, loss
        if np.abs(step).max() < _SMALL:
            break
    score, chance = best.tolist()
    if _LEAST <= score <= _MOST:
        return score, chance
    # A retrieval that says next to nothing is nearly left out, never turned around.
    little = np.array([_LEAST, chance])
    is_better = _loss(inputs, usable, engaged, little) < _loss(
        inputs, usable, engaged, np.array([1.0, 0.0])
    )
    return (_LEAST, chance) if is_better else (1.0, 0.0)


def _shares(inputs: Numbers, usable: NDArray[np.bool_], weights: Numbers) -> Numbers:
    logits = np.where(usable, inputs @ weights, -np.inf)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _loss(
    inputs: Numbers, usable: NDArray[np.bool_], engaged: NDArray[np.bool_], weights: Numbers
) -> float:
    with np.errstate(divide="ignore"):
        return -float(np.log(_shares(inputs, usable, weights)[engaged]).sum())
