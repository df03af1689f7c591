"""A model of the reward for all choices of every round, fitted on other users' rounds.

Ridge-penalised logistic regression on context, choice and pair features, in NumPy. R rounds,
A choices. Knows features; not where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.off_policy.ratio_estimate import Clusters, Values

PENALTIES = (10.0, 100.0, 1000.0)
N_FOLDS = 5
_MAX_STEPS = 30
_TOLERANCE = 1e-4
"""In logits: far below what any number of rewards can tell."""
_MAX_LOGIT = 30.0


@dataclass(frozen=True, slots=True)
class RewardFeatures:
    """What the reward of a choice in a round may depend on."""

    context: Values  # [R, C]
    choices: Values  # [A, I]
    pairs: Values | None = None  # [R, A, P], features of a choice in a round
    is_crossed: bool = False
    """Whether every context feature acts on every choice feature."""

    def of_logged(self, chosen: NDArray[np.integer]) -> Values:
        """The design of what was logged, [R, F]: a constant, context, choice, pair, crosses."""
        own = self.choices[chosen]
        parts = [np.ones((len(chosen), 1)), self.context, own]
        if self.pairs is not None:
            parts.append(self.pairs[np.arange(len(chosen)), chosen])
        if self.is_crossed:
            crosses = self.context[:, :, None] * own[:, None, :]
            parts.append(crosses.reshape(len(chosen), -1))
        return np.concatenate(parts, axis=1)

    def logits(self, rows: NDArray[np.integer], weights: Values) -> Values:
        """What a fitted design says of all choices of some rounds, [rows, A]."""
        n_context, n_choice = self.context.shape[1], self.choices.shape[1]
        n_pair = 0 if self.pairs is None else self.pairs.shape[2]
        ends = np.cumsum([1, n_context, n_choice, n_pair])
        constant, by_context, by_choice, by_pair, by_cross = np.split(weights, ends)
        context = self.context[rows]
        found = constant + (context @ by_context)[:, None] + self.choices @ by_choice
        if self.pairs is not None:
            found = found + self.pairs[rows] @ by_pair
        if self.is_crossed:
            found = found + context @ by_cross.reshape(n_context, n_choice) @ self.choices.T
        return np.asarray(found)


@dataclass(frozen=True, slots=True)
class CrossFit:
    """A model's rewards, each by a fit that saw nothing of its round's user."""

    expected: Values  # [R, A], probability of a reward
    penalty: float
    deviance: float
    """Mean negative log likelihood of what was logged, predicted like this."""


def cross_fit(
    features: RewardFeatures,
    chosen: NDArray[np.integer],
    rewards: Values,
    clusters: Clusters,
    *,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> CrossFit:
    """Predict every round by a model of the other folds; folds hold whole clusters.

    Chernozhukov et al., "Double/debiased machine learning for treatment and structural
    parameters", Econometrics Journal 2018. The penalty of least out-of-fold deviance is taken.

    Args:
        chosen: the choice that was logged, [R].
        rewards: 0 or 1, [R].
    """
    design = features.of_logged(chosen)
    folds = fold_of_clusters(clusters, seed)
    fits = []
    for penalty in penalties:
        expected = np.zeros((len(rewards), len(features.choices)))
        for fold in range(N_FOLDS):
            own = np.flatnonzero(folds == fold)
            others = folds != fold
            if len(own):
                weights = fit_logistic(design[others], rewards[others], penalty)
                expected[own] = _probability(features.logits(own, weights))
        predicted = np.clip(expected[np.arange(len(rewards)), chosen], 1e-12, 1.0 - 1e-12)
        deviance = -np.mean(rewards * np.log(predicted) + (1 - rewards) * np.log1p(-predicted))
        fits.append(CrossFit(expected, penalty, float(deviance)))
    return min(fits, key=lambda fit: fit.deviance)


def fold_of_clusters(clusters: Clusters, seed: int, n_folds: int = N_FOLDS) -> NDArray[np.int64]:
    """The fold of each round, [R]: the same for all rounds of a cluster, folds of equal size."""
    names, members = np.unique(clusters, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray((order % n_folds)[members], np.int64)


def fit_logistic(design: Values, rewards: Values, penalty: float) -> Values:
    """Weights [F] of least penalised deviance, by Newton steps; the constant is not penalised.

    Half a reward and half a round without one are added, so that a fold without any reward
    predicts little instead of nothing.
    """
    n_features = design.shape[1]
    ridge = np.full(n_features, penalty)
    ridge[0] = 1e-6
    weights = np.zeros(n_features)
    rate = (rewards.sum() + 0.5) / (len(rewards) + 1.0)
    weights[0] = np.log(rate / (1.0 - rate))
    for _ in range(_MAX_STEPS):
        predicted = _probability(design @ weights)
        gradient = design.T @ (rewards - predicted) - ridge * weights
        gradient[0] += 0.5 - _probability(weights[0])
        curvature = np.maximum(predicted * (1.0 - predicted), 1e-9)
        hessian = (design * curvature[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        # A longer step than this leaves the region in which the quadratic says anything.
        weights += step * min(1.0, 10.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return weights


def _probability(logits: Values) -> Values:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT))))
