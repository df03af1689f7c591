"""Estimators for slates: one reward per position, weighted by what a position depends on.

R slates of K positions. With propensities given the items above, the product down to a position
is the weight of everything up to there. A shorter slate is padded: ratio 1 and reward 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.off_policy.ratio_estimate import (
    BOOTSTRAP,
    Bootstrap,
    Clusters,
    Estimate,
    Values,
    estimate_ratios,
)

SLATE_IPS, SLATE_SNIPS = "slate IPS", "slate SNIPS"
CASCADE_IPS, CASCADE_SNIPS = "reward-interaction IPS", "reward-interaction SNIPS"
POSITION_IPS, POSITION_SNIPS = "item-position IPS", "item-position SNIPS"
PSEUDO_INVERSE = "pseudo-inverse"


def whole_slate(
    rewards: Values, ratios: Values, clusters: Clusters, *, bootstrap: Bootstrap = BOOTSTRAP
) -> tuple[Estimate, Estimate]:
    """Plain and self-normalised, with the weight of the whole slate: supposes nothing of users.

    Args:
        rewards: [R, K].
        ratios: target over logging probability of each item given the items above, [R, K].
    """
    weights = ratios.prod(axis=1)
    weighted, ones = weights * rewards.sum(axis=1), np.ones(len(weights))
    return (
        estimate_ratios(SLATE_IPS, weighted, ones, clusters, bootstrap=bootstrap),
        estimate_ratios(SLATE_SNIPS, weighted, weights, clusters, bootstrap=bootstrap),
    )


def cascade_weights(ratios: Values) -> Values:
    """The weight of each position with everything above it, [R, K]."""
    return np.asarray(np.cumprod(ratios, axis=1))


def reward_interaction(
    rewards: Values, ratios: Values, clusters: Clusters, *, bootstrap: Bootstrap = BOOTSTRAP
) -> tuple[Estimate, Estimate]:
    """Plain and self-normalised by position: supposes that nothing below a position moves it.

    McInerney, Brost, Chandar, Mehrotra & Carterette, "Counterfactual evaluation of slate
    recommendations with sequential reward interactions", KDD 2020.

    Args:
        rewards: [R, K].
        ratios: target over logging probability of each item given the items above, [R, K].
    """
    weights = cascade_weights(ratios)
    return _by_position((CASCADE_IPS, CASCADE_SNIPS), rewards, weights, clusters, bootstrap)


def item_position(
    rewards: Values,
    marginal_ratios: Values,
    clusters: Clusters,
    *,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> tuple[Estimate, Estimate]:
    """Plain and self-normalised by position: supposes that a reward is its item's and place's own.

    Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay & Wen, "Offline evaluation of ranking
    policies with click models", KDD 2018.

    Args:
        rewards: [R, K].
        marginal_ratios: target over logging probability of each item at its position, whatever
            stands above it, [R, K]. Ratios given the items above are something else.
    """
    names = (POSITION_IPS, POSITION_SNIPS)
    return _by_position(names, rewards, marginal_ratios, clusters, bootstrap)


def pseudo_inverse(
    rewards: Values, weights: Values, clusters: Clusters, *, bootstrap: Bootstrap = BOOTSTRAP
) -> Estimate:
    """Mean of weight times the slate's reward: supposes that it is a sum over its items.

    Swaminathan, Krishnamurthy, Agarwal, Dudik, Langford, Jose & Zitouni, "Off-policy evaluation
    for slate recommendation", NIPS 2017.

    Args:
        rewards: of whole slates, [R].
        weights: from `pseudo_inverse_weights`, [R]; they may be negative.
    """
    ones = np.ones(len(rewards))
    return estimate_ratios(PSEUDO_INVERSE, weights * rewards, ones, clusters, bootstrap=bootstrap)


def pseudo_inverse_weights(
    second_moment: Values, target_mean: Values, shown: NDArray[np.bool_]
) -> Values:
    """Weights of slates that were drawn in one context, [R].

    A slate is the 0/1 vector of its (position, item) pairs, M of them. With P items and K
    positions the second moment has (K P)^2 cells: for small pools, or policies of few slates.

    Args:
        second_moment: mean of the vector's outer product under the logging policy, [M, M].
        target_mean: mean of the vector under the target policy, [M].
        shown: the vectors of the logged slates, [R, M].
    """
    direction = np.linalg.pinv(second_moment, rcond=1e-10, hermitian=True) @ target_mean
    return np.asarray(shown.astype(np.float64) @ direction)


def _by_position(
    names: tuple[str, str],
    rewards: Values,
    weights: Values,
    clusters: Clusters,
    bootstrap: Bootstrap,
) -> tuple[Estimate, Estimate]:
    """A sum over positions of means, and of ratios."""
    weighted = weights * rewards
    return (
        estimate_ratios(names[0], weighted, np.ones_like(weights), clusters, bootstrap=bootstrap),
        estimate_ratios(names[1], weighted, weights, clusters, bootstrap=bootstrap),
    )
