"""Whether the arms got the users they should have, asked at any moment: pure.

A sequential multinomial test (Lindon & Malek, "Anytime-valid inference for multinomial count
data", NeurIPS 2022, eq. 6): a Dirichlet mixture against the intended shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CONCENTRATION = 100.0
"""Weight of the intended shares in the mixture, in users."""


def log_bayes_factor(
    counts: Sequence[float], shares: Sequence[float], concentration: float = CONCENTRATION
) -> float:
    """Log of the mixture's likelihood over that of the intended shares, a martingale under them."""
    found = math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
    for n, share in zip(counts, shares, strict=True):
        prior = concentration * share
        found += math.lgamma(prior + n) - math.lgamma(prior) - n * math.log(share)
    return found


def sample_ratio_p(
    n_baseline: int, n_canary: int, expected_ratio: float, concentration: float = CONCENTRATION
) -> float:
    """A p value that may be looked at again and again: min(1, 1 / Bayes factor).

    Args:
        expected_ratio: users of the canary per user of the baseline.
    """
    share = 1 / (1 + expected_ratio)
    found = log_bayes_factor((n_baseline, n_canary), (share, 1 - share), concentration)
    return math.exp(-max(found, 0.0))
