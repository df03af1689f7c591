"""A ratio of two sums over users and its standard error: pure, one ratio or arrays of them.

The delta method over users, since one user's slates depend on each other (Deng, Knoblich & Lu,
"Applying the delta method in metric analytics", KDD 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class RatioMoments:
    """Sums over users of numerators, denominators, their squares and products, [...] each."""

    n: Values
    top: Values
    bottom: Values
    top_top: Values
    bottom_bottom: Values
    top_bottom: Values

    @property
    def ratio(self) -> Values:
        """Sum of numerators over sum of denominators; NaN without any."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(self.bottom > 0, self.top / self.bottom, np.nan))

    def variance(self, least_of: Values) -> Values:
        """Squared standard error of the ratio (sample variance over n - 1 users).

        Values that are all equal have a variance of 0 and yet are finitely many: at least what
        one user who differs by `least_of` would give, so that n users say no more than about 1/n.
        """
        ratio = self.ratio
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = self.top_top - 2 * ratio * self.top_bottom
            squares = squares + np.square(ratio) * self.bottom_bottom
            mean_bottom = self.bottom / self.n
            found = squares / ((self.n - 1) * self.n * np.square(mean_bottom))
            return np.asarray(np.maximum(found, np.square(least_of / self.n)))


def ratio_moments(top: Values, bottom: Values) -> RatioMoments:
    """The moments of columns of users, [..., U] to [...]."""
    return RatioMoments(
        np.asarray(np.full(top.shape[:-1], top.shape[-1], np.float64)),
        top.sum(-1),
        bottom.sum(-1),
        np.square(top).sum(-1),
        np.square(bottom).sum(-1),
        (top * bottom).sum(-1),
    )
