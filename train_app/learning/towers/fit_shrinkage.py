"""How far a user's newest state is drawn towards the one before it and towards the common state.

A tower that has met its targets many times reads more into the last event than there is. Three
predictions, by the newest state, by the one before and by the mean of all, are stacked (Breiman
1996) on events that the tower did not learn from, as a conditional logit over sampled alternatives
(McFadden 1978). Legend: E events, A alternatives, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.tower_networks import TwoTower
from recsys.two_tower import UserEncoder
from recsys.types import Batch, FloatArray, RowArray
from train_app.examples.interactions import Interactions
from train_app.learning.ranking.scorer_examples import histories_before

_MOST_EVENTS, _LEAST_EVENTS = 2_000, 200
_MOST_ALTERNATIVES = 4_096
_CHUNK = 64
_MOST_STEPS = 25
_SMALL = 1e-4
_RIDGE = 1e-3
_LEAST_OWN = 0.05
"""Weight of the newest state below which nothing is drawn anywhere: the fit says it is useless."""
_Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """What is added to a newest state, as shares of it; `common` [D] has its share in it."""

    previous_share: float
    common_share: float
    common: FloatArray


def shrink_states(
    train: Interactions, events: NDArray[np.int64], model: TwoTower, rng: np.random.Generator
) -> dict[str, float]:
    """Fit the shrinkage on `events` [E] and put it into the user tower; what was fitted.

    Args:
        events: engagements the towers did not learn from; of fewer than two hundred nothing is
            fitted, and states stay as they are.
    """
    width = model.config.embedding_dim
    found = Shrinkage(0.0, 0.0, np.zeros(width, np.float32))
    if len(events) >= _LEAST_EVENTS:
        if len(events) > _MOST_EVENTS:
            events = np.sort(rng.choice(events, _MOST_EVENTS, replace=False))
        found = fitted_shrinkage(train, events, model, rng)
    with torch.no_grad():
        model.user.previous_share.fill_(found.previous_share)
        model.user.common.copy_(torch.from_numpy(found.common))
    return {
        "shrink_to_previous": found.previous_share,
        "shrink_to_common": found.common_share,
    }


def fitted_shrinkage(
    train: Interactions, events: NDArray[np.int64], model: TwoTower, rng: np.random.Generator
) -> Shrinkage:
    """The shares under which the items of the events are likeliest, none below 0."""
    history = histories_before(train, events, model.config.history_length)
    states = _states(UserEncoder.of(model), history)  # [E, 2, D]
    mean: FloatArray = states[:, 0].mean(0)
    rows = np.arange(train.n_items, dtype=np.int32)
    if len(rows) > _MOST_ALTERNATIVES:
        rows = np.sort(rng.choice(rows, _MOST_ALTERNATIVES, replace=False))
    vectors = model.item_vectors()
    alternatives = Alternatives(
        _predictions(states, vectors[rows], mean),
        _own_predictions(states, vectors[train.rows[events]], mean),
        no_choice(history["items"], train.rows[events], rows, train.n_items),
    )
    weights = stacked_weights(alternatives)
    if not weights[0] > _LEAST_OWN or not np.isfinite(weights).all():
        return Shrinkage(0.0, 0.0, np.zeros_like(mean))
    previous, common = (weights[1:] / weights[0]).tolist()
    return Shrinkage(previous, common, (common * mean).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What each event's item is chosen from, the sampled items and the item itself, as predicted
    by the newest state, the one before and the common one."""

    others: FloatArray  # [E, A, 3]
    own: FloatArray  # [E, 3]
    is_no_choice: NDArray[np.bool_]  # [E, A] seen already, or the item itself


def stacked_weights(alternatives: Alternatives) -> _Weights:
    """Weights [3] of the three predictions under which the events' own items are likeliest.

    Those of the previous and the common state are 0 where they would be below.
    """
    weights, is_used = np.array([1.0, 0.0, 0.0]), np.ones(3, np.bool_)
    while True:
        weights = _maximised(alternatives, np.where(is_used, weights, 0.0), is_used)
        is_harmful = is_used & (weights < 0)
        is_harmful[0] = False
        if not is_harmful.any():
            return weights
        is_used &= ~is_harmful


def _maximised(
    alternatives: Alternatives, weights: _Weights, is_used: NDArray[np.bool_]
) -> _Weights:
    """Newton's method from `weights`, over those used; the others stay 0."""
    used = np.flatnonzero(is_used)
    for _ in range(_MOST_STEPS):
        gradient, curvature = _derivatives(alternatives, weights)
        block = curvature[np.ix_(used, used)]
        damped = block + _RIDGE * np.eye(len(used)) * max(float(block.max(initial=0.0)), 1.0)
        step = np.linalg.solve(damped, gradient[used])
        weights = weights.copy()
        weights[used] += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < _SMALL:
            break
    return weights


def _derivatives(alternatives: Alternatives, weights: _Weights) -> tuple[_Weights, _Weights]:
    """Gradient [3] and curvature [3, 3] of the log likelihood of the events' own items."""
    gradient, curvature = np.zeros(3), np.zeros((3, 3))
    for start in range(0, len(alternatives.own), _CHUNK):
        part = slice(start, start + _CHUNK)
        others = alternatives.others[part].astype(np.float64)
        own = alternatives.own[part].astype(np.float64)
        logits = np.where(alternatives.is_no_choice[part], -np.inf, others @ weights)
        own_logits = own @ weights
        most = np.maximum(logits.max(axis=1, initial=-np.inf), own_logits)
        shares, own_share = np.exp(logits - most[:, None]), np.exp(own_logits - most)
        total = shares.sum(axis=1) + own_share
        shares, own_share = shares / total[:, None], own_share / total
        mean = np.einsum("ea,eak->ek", shares, others) + own_share[:, None] * own
        gradient += (own - mean).sum(0)
        weighted = (others * shares[..., None]).reshape(-1, 3)
        curvature += weighted.T @ others.reshape(-1, 3)
        curvature += (own * own_share[:, None]).T @ own - mean.T @ mean
    return gradient, curvature


def no_choice(seen: RowArray, own: RowArray, rows: RowArray, n_items: int) -> NDArray[np.bool_]:
    column = np.full(n_items + 1, len(rows))  # the last cells are row -1 and what is not sampled
    column[rows] = np.arange(len(rows))
    marks = np.zeros((len(own), len(rows) + 1), np.bool_)
    events = np.arange(len(own))
    marks[events[:, None], column[seen]] = True
    marks[events, column[own]] = True
    return marks[:, :-1]


def _predictions(states: FloatArray, vectors: FloatArray, mean: FloatArray) -> FloatArray:
    """Inner products [E, A, 3] of vectors [A, D] with states [E, 2, D] and their mean [D]."""
    found = np.empty((len(states), len(vectors), 3), np.float32)
    turned = torch.from_numpy(vectors).T
    for place in range(2):
        found[..., place] = (torch.from_numpy(states[:, place]) @ turned).numpy()
    found[..., 2] = vectors @ mean
    return found


def _own_predictions(states: FloatArray, vectors: FloatArray, mean: FloatArray) -> FloatArray:
    """The same [E, 3] of each event with a vector of its own, [E, D]."""
    found = np.empty((len(states), 3), np.float32)
    found[:, :2] = np.einsum("ekd,ed->ek", states, vectors)
    found[:, 2] = vectors @ mean
    return found


def _states(encoder: UserEncoder, history: Batch) -> FloatArray:
    parts = [
        encoder.newest_states(
            {name: values[start : start + _CHUNK] for name, values in history.items()}
        )
        for start in range(0, len(history["items"]), _CHUNK)
    ]
    return np.concatenate(parts)
