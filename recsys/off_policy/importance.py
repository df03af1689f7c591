"""Estimators that only weigh what was logged: no model of the reward.

R rounds; a weight is target probability over logging probability of what was logged.
"""

from __future__ import annotations

import numpy as np

from recsys.off_policy.ratio_estimate import (
    BOOTSTRAP,
    Bootstrap,
    Clusters,
    Estimate,
    Values,
    estimate_ratios,
)

IPS, SNIPS, CLIPPED = "IPS", "SNIPS", "clipped IPS"


def importance_weights(target: Values, logging: Values) -> Values:
    """Target over logging probability of what was logged, [R]; 0 where the target never does it.

    Raises:
        ValueError: something was logged that its own policy never does.
    """
    if not (logging > 0.0).all():
        broken = int(np.count_nonzero(~(logging > 0.0)))
        raise ValueError(
            f"{broken} logged propensities are not above 0, expected the probability with which"
            " each was chosen; leave those rounds out"
        )
    return np.asarray(target / logging, np.float64)


def inverse_propensity(
    rewards: Values, weights: Values, clusters: Clusters, *, bootstrap: Bootstrap = BOOTSTRAP
) -> Estimate:
    """Mean of w r: unbiased where the logging policy supports the target.

    Horvitz & Thompson, "A generalization of sampling without replacement from a finite universe",
    JASA 1952.
    """
    return estimate_ratios(
        IPS, weights * rewards, np.ones(len(rewards)), clusters, bootstrap=bootstrap
    )


def self_normalised(
    rewards: Values, weights: Values, clusters: Clusters, *, bootstrap: Bootstrap = BOOTSTRAP
) -> Estimate:
    """Sum of w r over sum of w: a little bias for much less variance, and never out of range.

    Swaminathan & Joachims, "The self-normalized estimator for counterfactual learning",
    NIPS 2015.
    """
    return estimate_ratios(SNIPS, weights * rewards, weights, clusters, bootstrap=bootstrap)


def clipped(
    rewards: Values,
    weights: Values,
    clusters: Clusters,
    *,
    bound: float | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> Estimate:
    """Mean of min(w, M) r: what weights beyond M would have said is missing from it.

    M is the square root of the number of rounds unless given, for which bias and variance both
    vanish with more rounds (Ionides, "Truncated importance sampling", JCGS 2008). The note tells
    the weight that was cut off: the bias is at most that share of the greatest reward.
    """
    limit = float(np.sqrt(len(weights))) if bound is None else bound
    cut = float(np.maximum(weights - limit, 0.0).mean()) if len(weights) else 0.0
    values = np.minimum(weights, limit) * rewards
    note = f"weights at most {limit:.4g}, which cuts off {cut:.2%}"
    return estimate_ratios(
        CLIPPED, values, np.ones(len(values)), clusters, bootstrap=bootstrap, note=note
    )
