"""Whether a log can say anything of a policy: figures of its weights, and the refusal.

A weight is the probability of what was logged under the target policy over that under the logging
policy. Knows weights and rewards; not where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataRefused
from recsys.off_policy.ratio_estimate import Clusters, Values


class ThinSupport(DataRefused):
    """The log holds too little of what the target policy would do; no value was estimated."""


@dataclass(frozen=True, slots=True)
class SupportRules:
    """Bounds below which an estimate is not worth its digits."""

    min_ess: float = 1_000.0
    """Rounds that the log is worth, drawn from the target policy itself: with so many, a rate of
    one in ten is known to within a tenth of itself."""
    min_ess_share: float = 0.01
    """Likewise, as a share of the rounds."""
    min_rewarded_ess: float = 10.0
    """Rewarded rounds it is worth: with ten, a value is known to within a third."""
    max_mean_errors: float = 4.0
    """How many standard errors the mean weight may be from 1."""
    max_mean_gap: float = 0.25
    """How far from 1 the mean weight may be, whatever its error."""
    max_unsupported: float = 0.02
    """Share of the target policy's choices that the logging policy never makes."""


@dataclass(frozen=True, slots=True)
class SupportFigures:
    """How much of the target policy the log holds."""

    n_rounds: int
    n_clusters: int
    ess: float
    """Effective sample size, (sum of w)^2 / sum of w^2 (Kish, "Survey sampling", 1965)."""
    rewarded_ess: float
    """The same of |w r|: of how many rewards the estimate is really made."""
    mean_weight: float
    """1 in expectation; less is target mass that the log lacks, else the propensities are wrong."""
    mean_error: float
    """Standard error of the mean weight, over clusters."""
    max_weight: float
    max_share: float
    """Share of the heaviest round in the sum of weights."""
    unsupported: float | None
    """Target mass outside the logging policy's support; None where no list of choices is known."""

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object; a figure that is not finite is null."""
        return {
            name: value if value is None or np.isfinite(value) else None
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class SupportVerdict:
    """What the rules say of the figures."""

    figures: SupportFigures
    reasons: tuple[str, ...]
    """Why nothing can be estimated; empty where it can."""

    @property
    def is_supported(self) -> bool:
        """Whether an estimate may be reported."""
        return not self.reasons

    def require(self, target: str) -> None:
        """Let a supported target through.

        Raises:
            ThinSupport: it is not; the sentence has the figures and what to do.
        """
        if self.reasons:
            raise ThinSupport(
                f"the log cannot say what {target} would earn: {'; '.join(self.reasons)}; collect"
                " more rounds or raise ordering.exploration of the serving bundle, choose a target"
                " nearer to it, or compare them in a canary"
            )

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "is_supported": self.is_supported,
            "reasons": list(self.reasons),
            **self.figures.as_dict(),
        }


def measure_support(
    weights: Values,
    rewards: Values,
    clusters: Clusters,
    *,
    logging: NDArray[np.floating[Any]] | None = None,
    target: NDArray[np.floating[Any]] | None = None,
) -> SupportFigures:
    """The figures of a log's weights.

    Args:
        weights: of what was logged, [R].
        rewards: what each round earned, [R].
        clusters: who each round belongs to, [R].
        logging: probabilities of all choices under the logging policy, [R, A], where known.
        target: likewise under the target policy.
    """
    n_rounds = len(weights)
    _, members = np.unique(clusters, return_inverse=True)
    n_clusters = int(members.max(initial=-1)) + 1
    total = float(weights.sum())
    mean = total / n_rounds if n_rounds else np.nan
    residuals = np.bincount(members, weights - mean) if n_rounds else np.zeros(0)
    spread = float((residuals**2).sum()) * n_clusters / max(n_clusters - 1, 1)
    unsupported = None
    if logging is not None and target is not None:
        unsupported = float(np.where(logging > 0.0, 0.0, target).sum(axis=1).mean())
    highest = float(weights.max(initial=0.0))
    return SupportFigures(
        n_rounds=n_rounds,
        n_clusters=n_clusters,
        ess=effective_size(weights),
        rewarded_ess=effective_size(np.abs(weights * rewards)),
        mean_weight=mean,
        mean_error=float(np.sqrt(spread)) / n_rounds if n_rounds else np.nan,
        max_weight=highest,
        max_share=highest / total if total else 0.0,
        unsupported=unsupported,
    )


def effective_size(weights: Values) -> float:
    """Of how many equal weights these are worth; 0 where all are 0."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0.0 else 0.0


def judge_support(figures: SupportFigures, rules: SupportRules | None = None) -> SupportVerdict:
    """Apply every rule; a figure that is not finite refuses."""
    rules = SupportRules() if rules is None else rules
    reasons = [*_size_reasons(figures, rules), *_mass_reasons(figures, rules)]
    return SupportVerdict(figures, tuple(reasons))


def worst_support(figures: Sequence[SupportFigures]) -> SupportFigures:
    """Of several, such as one per position, that with the smallest effective sample size."""
    return min(figures, key=lambda one: one.ess)


def _size_reasons(figures: SupportFigures, rules: SupportRules) -> list[str]:
    n, ess = figures.n_rounds, figures.ess
    least = max(rules.min_ess, rules.min_ess_share * n)
    reasons = []
    if not ess >= least:
        reasons.append(
            f"the effective sample size of {n:,} rounds is {ess:,.1f}, at least {least:,.0f}"
            " expected"
        )
    if not figures.rewarded_ess >= rules.min_rewarded_ess:
        reasons.append(
            f"the estimate is made of {figures.rewarded_ess:.1f} effective rewards, at least"
            f" {rules.min_rewarded_ess:g} expected"
        )
    return reasons


def _mass_reasons(figures: SupportFigures, rules: SupportRules) -> list[str]:
    gap = abs(figures.mean_weight - 1.0)
    # Weights of a policy against itself are all 1 up to rounding, with an error of about nothing.
    bound = min(max(rules.max_mean_errors * figures.mean_error, 1e-3), rules.max_mean_gap)
    reasons = []
    if not gap <= bound:
        reasons.append(
            f"the mean weight is {figures.mean_weight:.4f} ± {figures.mean_error:.4f}, expected 1"
            f" within {bound:.4f}: the target does what the log never shows, or its propensities"
            " are not those of the policy that wrote it"
        )
    if figures.unsupported is not None and not figures.unsupported <= rules.max_unsupported:
        reasons.append(
            f"{figures.unsupported:.1%} of the target's choices are never made by the logging"
            f" policy, at most {rules.max_unsupported:.0%} expected"
        )
    return reasons
