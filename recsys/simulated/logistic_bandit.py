"""A contextual bandit whose truth is known: rewards are logistic in context and choice.

For showing that off-policy estimators find what they should. R rounds, A choices, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.off_policy.cross_fitting import RewardFeatures

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BanditWorld:
    """What a reward depends on."""

    slopes: Values  # [A, D]
    offsets: Values  # [A]

    @classmethod
    def draw(cls, rng: np.random.Generator, n_choices: int, n_features: int) -> BanditWorld:
        """A world in which every context has a best choice of its own."""
        slopes = rng.normal(size=(n_choices, n_features))
        return cls(slopes, rng.normal(scale=0.5, size=n_choices) - 0.5)

    def contexts(self, rng: np.random.Generator, n_rounds: int) -> Values:
        """Who comes, [R, D]."""
        return rng.normal(size=(n_rounds, self.slopes.shape[1]))

    def means(self, contexts: Values) -> Values:
        """The probability of a reward of every choice, [R, A]."""
        return np.asarray(1.0 / (1.0 + np.exp(-(contexts @ self.slopes.T + self.offsets))))

    def policy(self, contexts: Values, sharpness: float, floor: float = 0.0) -> Values:
        """Probabilities [R, A]: a softmax of the true means, mixed with a share of all alike.

        Args:
            sharpness: 0 chooses all alike, negative values prefer what earns little.
            floor: share of the choices that is made at random.
        """
        logits = sharpness * self.means(contexts)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances = weights / weights.sum(axis=1, keepdims=True)
        return np.asarray((1.0 - floor) * chances + floor / chances.shape[1])


@dataclass(frozen=True, slots=True)
class BanditLog:
    """Rounds as a logging policy had them."""

    contexts: Values  # [R, D]
    chosen: NDArray[np.int64]  # [R]
    rewards: Values  # [R]
    logging: Values  # [R, A]

    @classmethod
    def draw(
        cls,
        world: BanditWorld,
        rng: np.random.Generator,
        n_rounds: int,
        sharpness: float,
        floor: float,
    ) -> BanditLog:
        """Rounds under the world's policy of that sharpness and floor."""
        contexts = world.contexts(rng, n_rounds)
        logging = world.policy(contexts, sharpness, floor)
        running = np.cumsum(logging, axis=1)
        drawn = rng.random(n_rounds)[:, None] * running[:, -1:]
        chosen = np.asarray((running <= drawn).sum(axis=1), np.int64)
        means = world.means(contexts)[np.arange(n_rounds), chosen]
        rewards = (rng.random(n_rounds) < means).astype(np.float64)
        return cls(contexts, chosen, rewards, logging)

    def features(self, *, is_well_specified: bool) -> RewardFeatures:
        """What a reward model sees: all that matters, or neither choice nor what it does."""
        n_choices = self.logging.shape[1]
        if is_well_specified:
            return RewardFeatures(self.contexts, np.eye(n_choices), is_crossed=True)
        return RewardFeatures(self.contexts[:, :1], np.ones((n_choices, 1)))
