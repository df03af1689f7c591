"""Fits few numbers on validation data: how far to trust a learned residual, and probabilities.

Pure NumPy. A choice that does not beat the plain one by more than its standard error is not made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SHARES = (0.25, 0.5, 0.75, 1.0)
_MIN_TRUST_GAIN = 1e-3
"""Nats per outcome that a learned deviation must be worth."""
_CUTOFF = 10
_NEWTON_STEPS = 50
_RIDGE = 1e-3
"""Keeps the fit finite where outcomes are separable."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A share of a residual, and the mean gain it showed over none."""

    share: float
    gain: float


def ndcg_per_example(estimates: Floats, engaged: NDArray[np.bool_], k: int = _CUTOFF) -> Floats:
    """NDCG@k of each row's order, [E]; 0 where nothing was engaged with.

    Unusable is -inf, and so is NaN: what is no number finds nothing.
    """
    estimates = np.where(np.isnan(estimates), -np.inf, estimates)
    k = min(k, estimates.shape[1])
    order = np.argsort(-estimates, axis=1, kind="stable")[:, :k]
    discounts = 1.0 / np.log2(np.arange(k) + 2)
    found = engaged & np.isfinite(estimates)
    gained = np.take_along_axis(found, order, axis=1) @ discounts
    n_best = np.minimum(engaged.sum(1), k)
    ideal = np.concatenate([[1.0], np.cumsum(discounts)])[n_best]
    return np.asarray(gained / np.where(n_best > 0, ideal, 1.0))


def choose_blend(base: Floats, residual: Floats, engaged: NDArray[np.bool_]) -> Choice:
    """The share of `residual` that ranks best on top of `base`, all [E, C]."""
    plain = ndcg_per_example(base, engaged)
    gains = {share: ndcg_per_example(base + share * residual, engaged) - plain for share in _SHARES}
    return _significant_best(gains, 0.0)


def choose_trust(log_odds: float, deviations: Floats, outcomes: NDArray[np.bool_]) -> Choice:
    """The share of learned `deviations` [n] from `log_odds` that predicts `outcomes` [n] best."""
    plain = _log_likelihood(np.full(len(outcomes), log_odds), outcomes)
    gains = {
        share: _log_likelihood(log_odds + share * deviations, outcomes) - plain for share in _SHARES
    }
    return _significant_best(gains, _MIN_TRUST_GAIN)


def fit_sigmoid(estimates: Floats, outcomes: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset such that sigmoid(slope * estimate + offset) is the outcome's probability.

    Platt's scaling with his smoothed targets, by Newton's method. The slope stays above 0, so the
    order of the estimates is kept.
    """
    n_true = int(outcomes.sum())
    high, low = (n_true + 1) / (n_true + 2), 1 / (len(outcomes) - n_true + 2)
    if n_true == 0 or n_true == len(outcomes):
        rate = (n_true + 0.5) / (len(outcomes) + 1)
        return 1.0, float(np.log(rate / (1 - rate)) - (estimates.mean() if n_true else 0.0))
    targets = np.where(outcomes, high, low)
    center, spread = float(estimates.mean()), float(estimates.std()) or 1.0
    features = np.stack([(estimates - center) / spread, np.ones(len(estimates))], axis=1)
    rate = float(targets.mean())
    weights = np.array([0.0, np.log(rate / (1 - rate))])
    for _ in range(_NEWTON_STEPS):
        predicted = _sigmoid(features @ weights)
        gradient = features.T @ (predicted - targets) + _RIDGE * weights
        curvature = predicted * (1 - predicted)
        hessian = (features * curvature[:, None]).T @ features + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    slope = max(float(weights[0]), 1e-3)
    return slope / spread, float(weights[1]) - slope * center / spread


def _significant_best(gains: dict[float, Floats], at_least: float) -> Choice:
    share, gain = max(gains.items(), key=lambda entry: float(entry[1].sum()))
    if len(gain) < 2 or gain.mean() <= max(gain.std(ddof=1) / len(gain) ** 0.5, at_least):
        return Choice(0.0, 0.0)
    return Choice(share, float(gain.mean()))


def _log_likelihood(log_odds: Floats, outcomes: NDArray[np.bool_]) -> Floats:
    return -np.logaddexp(0.0, np.where(outcomes, -log_odds, log_odds))


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * x))
