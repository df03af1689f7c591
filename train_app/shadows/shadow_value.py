"""What slates nobody saw would have earned, from the live slates of the same requests. Pure.

Supposes what click models by position do: a reward is its item's and its place's own. The live
policy's propensities are given the items above, so at a place it either could have drawn the
shadow's item, and then inverse propensities weigh when it did; or it had put the item higher up
already, and what it earned there bounds what it would earn further down. R requests, K positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.off_policy.importance import importance_weights
from recsys.off_policy.ratio_estimate import (
    BOOTSTRAP,
    Bootstrap,
    Clusters,
    Estimate,
    Values,
    estimate_ratios,
)
from recsys.off_policy.weight_support import (
    SupportRules,
    SupportVerdict,
    ThinSupport,
    effective_size,
    judge_support,
    measure_support,
)

LIVE = "live, same requests"
AT_LEAST, AT_MOST = "shadow, at least", "shadow, at most"
EXAMINED, NORMALISED, CLIPPED = "shadow, by places", "self-normalised", "clipped"
LIFT_AT_LEAST, LIFT_AT_MOST, LIFT = "lift, at least", "lift, at most", "lift, by places"
RULES = SupportRules(max_mean_errors=1e9, max_mean_gap=0.1)
"""Another retrieval finds items the live policy never has; a tenth of the places may hold such."""
MIN_OVERLAP = 0.05
"""Share of requests that must have an item of the shadow's at its own place."""
_CELLS_AT_ONCE = 4_000_000
_NO_ITEM = -1

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairedSlates:
    """Both slates of requests with what users did with the live one."""

    live: Codes  # [R, K], a number per item; -1 where the slate has ended
    shadow: Codes  # [R, K]
    propensities: Values  # [R, K], of the live items given those above; 1 where there is none
    rewards: Values  # [R, K], of the live items
    users: Clusters  # [R]

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.users)

    def head(self, n_positions: int) -> PairedSlates:
        """The same as far as their first positions."""
        return PairedSlates(
            self.live[:, :n_positions],
            self.shadow[:, :n_positions],
            self.propensities[:, :n_positions],
            self.rewards[:, :n_positions],
            self.users,
        )


@dataclass(frozen=True, slots=True)
class ShadowWeights:
    """How the places of the shadow's slates are made of the live ones, [R, K] each."""

    matched: Values
    """Inverse propensity where both have the same item at the place, else 0."""
    moved: NDArray[np.bool_]
    """Where the live slate had the item higher up."""
    moved_rewards: Values
    """What it earned there."""
    discounts: Values
    """How much less it is looked at in its own place, if places count as in DCG."""
    is_filled: NDArray[np.bool_]
    """Where the shadow shows an item at a place of the live slate."""

    @property
    def cover(self) -> Values:
        """1 in expectation wherever the live policy could have put the item there or above."""
        return self.matched + self.moved


@dataclass(frozen=True)
class ShadowValue:
    """What is known of the shadow's slates."""

    estimates: tuple[Estimate, ...]
    lifts: tuple[Estimate, ...]
    """Relative differences to the live slates of the same requests: at least, by places, at
    most."""
    support: SupportVerdict
    overlap_share: float
    """Requests with at least one item at its own place."""
    moved_share: float
    """Places whose item the live slate had higher up."""
    unsupported_share: float
    """Places whose item the live policy would never have shown there; as far as can be told."""
    n_more: int | None
    """About so many more requests are needed; None where no number can be told, 0 if none."""

    @property
    def refusal(self) -> ThinSupport | None:
        """Why the figures are not to be used."""
        if self.support.is_supported:
            return None
        more = (
            "no number of further requests can be told to be enough"
            if self.n_more is None
            else f"about {self.n_more:,} more requests like these are needed"
        )
        return ThinSupport(
            f"the log cannot say what the shadow would earn: {'; '.join(self.support.reasons)}; "
            f"{more}. Let it run on, look at the first --positions alone, or ask a canary"
        )

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "is_supported": self.support.is_supported,
            "refusal": None if self.refusal is None else str(self.refusal),
            "estimates": [one.as_dict() for one in self.estimates],
            "lifts": [one.as_dict() for one in self.lifts],
            "support": self.support.as_dict(),
            "overlap_share": self.overlap_share,
            "moved_share": self.moved_share,
            "unsupported_share": self.unsupported_share,
            "n_more": self.n_more,
        }


def value_shadow(
    slates: PairedSlates, rules: SupportRules = RULES, bootstrap: Bootstrap = BOOTSTRAP
) -> ShadowValue:
    """The shadow's value per request and its lift, with bounds, and whether the log supports it.

    The item-position estimator of Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay & Wen, "Offline
    evaluation of ranking policies with click models", KDD 2018, with propensities given the items
    above: E[1(s_k = l_k) / p(l_k | l_<k)] is 1 where s_k is not in l_<k. Where it is, it earns
    between nothing and what it earned there, as places are looked at less the lower they are.
    """
    weights = weigh(slates)
    own = weights.matched * slates.rewards
    low, high = (
        own + np.minimum(weights.moved_rewards, 0.0),
        own + np.maximum(weights.moved_rewards, 0.0),
    )
    places = own + weights.discounts * weights.moved_rewards
    live, users = slates.rewards.sum(axis=1), slates.users
    ones = np.ones(len(slates))

    def mean(name: str, values: Values, note: str = "") -> Estimate:
        return estimate_ratios(
            name, values.sum(axis=1), ones, users, bootstrap=bootstrap, note=note
        )

    def lift(name: str, values: Values) -> Estimate:
        return estimate_ratios(name, values.sum(axis=1) - live, live, users, bootstrap=bootstrap)

    return ShadowValue(
        estimates=(
            estimate_ratios(LIVE, live, ones, users, bootstrap=bootstrap),
            mean(AT_LEAST, low),
            mean(EXAMINED, places, "an item further down is looked at as DCG discounts it"),
            mean(AT_MOST, high),
            _normalised(weights, places, users, bootstrap),
            _clipped(weights, slates, mean),
        ),
        lifts=(lift(LIFT_AT_LEAST, low), lift(LIFT, places), lift(LIFT_AT_MOST, high)),
        **_support(weights, high, users, rules),
    )


def weigh(slates: PairedSlates) -> ShadowWeights:
    """The weights of all places, in chunks that fit in memory."""
    n_requests, n_positions = slates.live.shape
    is_filled = (slates.shadow != _NO_ITEM) & (slates.live != _NO_ITEM)
    is_same = is_filled & (slates.shadow == slates.live)
    weights = importance_weights(is_same.astype(np.float64), slates.propensities)
    higher = np.full((n_requests, n_positions), _NO_ITEM)
    chunk = max(1, _CELLS_AT_ONCE // max(n_positions**2, 1))
    above = np.tri(n_positions, k=-1, dtype=np.bool_)
    for start in range(0, n_requests, chunk):
        part = slice(start, start + chunk)
        shadow, live = slates.shadow[part, :, None], slates.live[part, None, :]
        found = (shadow == live) & (shadow != _NO_ITEM) & above
        higher[part] = np.where(found.any(axis=2), found.argmax(axis=2), _NO_ITEM)
    moved = (higher != _NO_ITEM) & (slates.live != _NO_ITEM)
    from_place = np.maximum(higher, 0)
    discount = 1.0 / np.log2(np.arange(n_positions) + 2.0)
    return ShadowWeights(
        matched=weights,
        moved=moved,
        moved_rewards=np.where(moved, np.take_along_axis(slates.rewards, from_place, axis=1), 0.0),
        discounts=np.where(moved, discount[None, :] / discount[from_place], 0.0),
        is_filled=is_filled | moved,
    )


def _normalised(
    weights: ShadowWeights, values: Values, users: Clusters, bootstrap: Bootstrap
) -> Estimate:
    """By position over what the weights add up to, which fills in for what was never shown."""
    filled = weights.is_filled.sum(axis=0)
    used = (filled > 0) & (weights.cover.sum(axis=0) > 0.0)
    if not used.any():
        return Estimate(NORMALISED, np.nan, np.nan, np.nan, np.nan, len(users), 0)
    # A place that not every shadow slate has counts for as much as there are of it.
    shares = filled[used] / max(len(users), 1)
    return estimate_ratios(
        NORMALISED, values[:, used] * shares, weights.cover[:, used], users, bootstrap=bootstrap
    )


def _clipped(weights: ShadowWeights, slates: PairedSlates, mean: Any) -> Estimate:
    """Weights of at most the square root of the number of requests (Ionides, JCGS 2008)."""
    limit = math.sqrt(max(len(slates), 1))
    bounded = np.minimum(weights.matched, limit)
    total = float(weights.matched.sum())
    cut = 1.0 - float(bounded.sum()) / total if total else 0.0
    values = bounded * slates.rewards + weights.discounts * weights.moved_rewards
    estimate: Estimate = mean(CLIPPED, values, f"weights at most {limit:.4g}, cuts off {cut:.2%}")
    return estimate


def _support(
    weights: ShadowWeights, values: Values, users: Clusters, rules: SupportRules
) -> dict[str, Any]:
    n, n_filled = len(users), weights.is_filled.sum(axis=1)
    rounds = np.where(n_filled > 0, weights.cover.sum(axis=1) / np.maximum(n_filled, 1), 1.0)
    figures = measure_support(rounds, values.sum(axis=1), users)
    # One place in one request is what is drawn; K of them in a request tell of one request.
    per_request = float(weights.is_filled.sum()) / n if n else 1.0
    ess = effective_size(weights.cover) / max(per_request, 1.0)
    figures = replace(figures, ess=ess, rewarded_ess=effective_size(np.abs(values)))
    verdict = judge_support(figures, rules)
    overlap = float((weights.matched > 0.0).any(axis=1).mean()) if n else 0.0
    reasons = verdict.reasons
    if overlap < MIN_OVERLAP:
        reasons = (
            *reasons,
            f"{overlap:.1%} of {n:,} requests have an item at the same place in both slates, at "
            f"least {MIN_OVERLAP:.0%} expected",
        )
    n_places = max(int(weights.is_filled.sum()), 1)
    return {
        "support": SupportVerdict(figures, reasons),
        "overlap_share": overlap,
        "moved_share": float(weights.moved.sum()) / n_places,
        "unsupported_share": max(0.0, 1.0 - float(weights.cover.sum()) / n_places),
        "n_more": _more_needed(n, figures.ess, figures.rewarded_ess, rules) if reasons else 0,
    }


def _more_needed(n: int, ess: float, rewarded_ess: float, rules: SupportRules) -> int | None:
    """Both sizes grow as the number of requests does."""
    if not (ess > 0.0 and rewarded_ess > 0.0):
        return None
    factor = max(rules.min_ess / ess, rules.min_rewarded_ess / rewarded_ess)
    return math.ceil(n * (factor - 1.0)) if factor > 1.0 else None
