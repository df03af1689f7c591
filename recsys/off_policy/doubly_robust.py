"""Estimators with a model of the reward: the model alone, and corrected by what was logged.

R rounds, A choices. The model must not have seen the rounds it predicts: see `cross_fitting`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.off_policy.ratio_estimate import (
    BOOTSTRAP,
    Bootstrap,
    Clusters,
    Estimate,
    Values,
    estimate_ratios,
)

DM, DR, SNDR, SWITCH = "DM", "DR", "SNDR", "Switch-DR"
N_THRESHOLDS = 20


@dataclass(frozen=True, slots=True)
class ModelledRounds:
    """Logged rounds with what a model expects of them."""

    rewards: Values  # [R]
    weights: Values  # [R], target over logging probability of what was logged
    expected: Values  # [R], the model's reward of what was logged
    expected_target: Values  # [R], the model's reward under the target policy
    clusters: Clusters  # [R]

    @property
    def corrections(self) -> Values:
        """What weighing adds to the model, [R]."""
        return self.weights * (self.rewards - self.expected)


@dataclass(frozen=True, slots=True)
class AllChoices:
    """All choices of every round, which switching by choice needs, [R, A] each."""

    target: Values
    weights: Values
    expected: Values

    def expected_target(self) -> Values:
        """The model's reward under the target policy, [R]."""
        return np.asarray((self.target * self.expected).sum(axis=1))


def direct_method(rounds: ModelledRounds, *, bootstrap: Bootstrap = BOOTSTRAP) -> Estimate:
    """Mean of what the model expects under the target: as biased as the model is.

    Its interval takes the model as given, so that it tells nothing of that bias.
    """
    ones = np.ones(len(rounds.rewards))
    note = "its interval leaves out the model's own error"
    return estimate_ratios(
        DM, rounds.expected_target, ones, rounds.clusters, bootstrap=bootstrap, note=note
    )


def doubly_robust(rounds: ModelledRounds, *, bootstrap: Bootstrap = BOOTSTRAP) -> Estimate:
    """The model, corrected by weighted residuals: right where model or propensities are.

    Dudik, Langford & Li, "Doubly robust policy evaluation and learning", ICML 2011.
    """
    values = rounds.expected_target + rounds.corrections
    return estimate_ratios(DR, values, np.ones(len(values)), rounds.clusters, bootstrap=bootstrap)


def self_normalised_doubly_robust(
    rounds: ModelledRounds, *, bootstrap: Bootstrap = BOOTSTRAP
) -> Estimate:
    """The same with the residuals' weights divided by their sum.

    Thomas & Brunskill, "Data-efficient off-policy policy evaluation for reinforcement learning",
    ICML 2016 (weighted doubly robust, of one step).
    """
    tops = np.stack([rounds.expected_target, rounds.corrections], axis=1)
    bottoms = np.stack([np.ones(len(rounds.rewards)), rounds.weights], axis=1)
    return estimate_ratios(SNDR, tops, bottoms, rounds.clusters, bootstrap=bootstrap)


def switch_doubly_robust(
    rounds: ModelledRounds,
    choices: AllChoices,
    *,
    threshold: float | None = None,
    reward_bound: float | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> Estimate:
    """Doubly robust where weights are at most a threshold, the model alone where they are above.

    Wang, Agarwal & Dudik, "Optimal and adaptive off-policy evaluation in contextual bandits",
    ICML 2017. Without a threshold it takes the one of least estimated squared error: the variance
    over rounds plus the square of a bound of the bias, which is the greatest reward times the
    target's mass above the threshold.

    Args:
        reward_bound: the greatest reward there is; by default the greatest that was logged.
    """
    limit = threshold
    if limit is None:
        highest = float(np.abs(rounds.rewards).max(initial=0.0))
        bound = highest if reward_bound is None else reward_bound
        limit = _least_squared_error(rounds, choices, bound)
    values = _switched(rounds, limit)
    modelled = float(np.where(choices.weights > limit, choices.target, 0.0).sum(axis=1).mean())
    note = f"weights above {limit:.4g} left to the model, {modelled:.2%} of the target"
    return estimate_ratios(
        SWITCH, values, np.ones(len(values)), rounds.clusters, bootstrap=bootstrap, note=note
    )


def _switched(rounds: ModelledRounds, threshold: float) -> Values:
    kept = np.where(rounds.weights <= threshold, rounds.corrections, 0.0)
    return np.asarray(rounds.expected_target + kept)


def _least_squared_error(rounds: ModelledRounds, choices: AllChoices, bound: float) -> float:
    positive = rounds.weights[rounds.weights > 0.0]
    if not len(positive):
        return 0.0
    thresholds = np.unique(np.quantile(positive, np.linspace(0.0, 1.0, N_THRESHOLDS)))
    scores = []
    for threshold in thresholds:
        values = _switched(rounds, float(threshold))
        above = np.where(choices.weights > threshold, choices.target, 0.0).sum(axis=1).mean()
        scores.append(values.var() / len(values) + (bound * above) ** 2)
    # Of equal ones the highest: nothing is gained by leaving more to the model.
    return float(thresholds[len(scores) - 1 - int(np.argmin(scores[::-1]))])
