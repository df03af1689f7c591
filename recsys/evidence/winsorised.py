"""A few enormous values bounded by a quantile of both arms together: pure, and declared."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]


def winsorised(baseline: Values, canary: Values, upper_quantile: float) -> tuple[Values, Values]:
    """Both arms' values, [U] each, with those above the pooled quantile set to it.

    One bound for both arms, so that it favours none (Kohavi, Tang & Xu, "Trustworthy online
    controlled experiments", 2020, ch. 18). The mean compared is that of the bounded values.
    """
    pooled = np.concatenate([baseline, canary])
    if not len(pooled):
        return baseline, canary
    bound = np.quantile(pooled, upper_quantile, method="inverted_cdf")
    return np.minimum(baseline, bound), np.minimum(canary, bound)
