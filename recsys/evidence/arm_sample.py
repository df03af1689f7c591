"""One arm of a rollout as it is compared: users' sums, counts of requests, latencies.

Knows how measures are made of stored sums; no store and no statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.stores.evidence.evidence_sums import LatencyHistogram, UserColumns, VariantEvidence

Measures: TypeAlias = Mapping[str, NDArray[np.float64]]
Rows: TypeAlias = NDArray[np.bool_] | NDArray[np.int64]
ONE = "one"
"""The measure that is 1 for every user."""
_SHED_STATUSES = {429, 503}
_SUMS = ("slates", "shown", "engaged_slates", "engaged_items", "touched_items", "sessions")
_TRAITS = ("diversity", "novelty")
"""Sums over the slates that say them, which are counted apart: older gateways' do not."""


@dataclass(frozen=True, slots=True)
class KindMeanings:
    """What engagements of each kind are worth; a kind not named weighs 1."""

    negative: tuple[str, ...] = ("dismiss", "dislike", "hide", "report", "unfollow")
    """Weigh -1 in the utility unless `weights` says otherwise, and make the dismiss rate."""
    conversions: tuple[str, ...] = ("purchase",)
    weights: Mapping[str, float] | None = None
    passive: tuple[str, ...] = ("view",)
    """Weigh nothing unless `weights` says otherwise."""

    def weight(self, kind: str) -> float:
        """What one item with such an engagement adds to the utility."""
        if self.weights is not None and kind in self.weights:
            return self.weights[kind]
        return 0.0 if kind in self.passive else -1.0 if kind in self.negative else 1.0


KIND_MEANINGS = KindMeanings()


@dataclass(frozen=True)
class ArmSample:
    """What one arm came to so far."""

    variant: str
    bundle_id: str
    users: Measures
    """Measure to sums per user, [U]; `one` is all ones."""
    before: Measures | None
    """The same users and measures before the rollout, [U]; NaN for a user without a past."""
    counts: Mapping[str, float]
    """requests, answered, errors, shed, degraded; slates and covered."""
    latency: LatencyHistogram
    """Of answered requests."""

    @property
    def n_users(self) -> int:
        """Users with at least one slate or credited engagement."""
        return len(self.users.get(ONE, ()))


def arm_samples(
    now: UserColumns,
    before: UserColumns | None,
    variants: Sequence[VariantEvidence],
    experiment: str,
    kinds: KindMeanings = KIND_MEANINGS,
) -> dict[str, ArmSample]:
    """The samples of one experiment's arms, by variant.

    Args:
        now: since the experiment began, one row per user and arm.
        before: the same users' rows of any arm before it.
        variants: the arms' requests and latencies since it began.
    """
    users_of_kinds = sorted({*now.kinds, *(before.kinds if before is not None else ())})
    samples = {}
    for variant in variants:
        if variant.experiment != experiment:
            continue
        mine = now.of_arm((variant.bundle_id, variant.variant, experiment))
        users = _measures(now, mine, users_of_kinds, kinds)
        past = None
        if before is not None and len(before):
            past = _past(before, now.user_hashes[mine], users_of_kinds, kinds)
        samples[variant.variant] = ArmSample(
            variant.variant,
            variant.bundle_id,
            users,
            past,
            request_counts(variant),
            variant.served_latency,
        )
    return samples


def request_counts(variant: VariantEvidence) -> dict[str, float]:
    """How an arm's requests ended; a caller's own mistakes (4xx) are no request of the bundle."""
    slates = float(variant.sums.get("slates", 0))
    shed = errors = degraded = 0
    for (status, _), n in variant.outcomes.items():
        shed += n if status in _SHED_STATUSES else 0
        errors += n if status >= 500 and status not in _SHED_STATUSES else 0
        degraded += n if status < 400 else 0
    answered = max(slates, float(variant.served_latency.n), float(degraded))
    return {
        "requests": answered + errors + shed,
        "answered": answered,
        "errors": float(errors),
        "shed": float(shed),
        "degraded": float(degraded),
        "slates": slates,
        "covered": variant.sums.get("coverage_milli", 0) / 1000,
    }


def _measures(
    columns: UserColumns, rows: Rows, names: Sequence[str], kinds: KindMeanings
) -> dict[str, NDArray[np.float64]]:
    """Measures of the chosen rows, [U] each."""
    sums = {name: column[rows].astype(np.float64) for name, column in columns.sums.items()}
    nothing = np.zeros(len(columns.user_hashes[rows]))
    found = {name: sums[name] for name in _SUMS if name in sums}
    for name in _TRAITS:
        if f"{name}_slates" in sums:
            found[name] = sums[f"{name}_milli"] / 1000
            found[f"{name}_slates"] = sums[f"{name}_slates"]
    found[ONE] = nothing + 1
    if "session_ms" in sums:
        found["session_s"] = sums["session_ms"] / 1000
    if "sessions" in sums:
        found["returned"] = (sums["sessions"] >= 2).astype(np.float64)
    utility, dismissed, conversions, value = (nothing.copy() for _ in range(4))
    for kind in names:
        mine = columns.kinds.get(kind)
        if mine is None:
            continue
        items = mine["items"][rows]
        utility += kinds.weight(kind) * items
        dismissed += items if kind in kinds.negative else 0
        if kind in kinds.conversions:
            conversions += mine["slates"][rows]
            value += mine["value_milli"][rows] / 1000
    return found | {
        "utility": utility,
        "dismissed_items": dismissed,
        "conversions": conversions,
        "value": value,
    }


def _past(
    before: UserColumns, hashes: NDArray[np.int64], names: Sequence[str], kinds: KindMeanings
) -> dict[str, NDArray[np.float64]]:
    """The same measures of the same users before, over all arms; NaN without a past, [U]."""
    known, place = np.unique(before.user_hashes, return_inverse=True)
    sums = {
        name: np.bincount(place, column, len(known)).astype(np.int64)
        for name, column in before.sums.items()
    }
    by_kind = {
        kind: {
            name: np.bincount(place, column, len(known)).astype(np.int64)
            for name, column in columns.items()
        }
        for kind, columns in before.kinds.items()
    }
    merged = UserColumns(known, np.zeros(len(known), np.int64), (), sums, by_kind)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    is_known = known[at] == hashes
    found = _measures(merged, at, names, kinds)
    return {name: np.where(is_known, column, np.nan) for name, column in found.items()}
