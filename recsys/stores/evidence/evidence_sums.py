"""What evidence amounts to, as it is handed to who decides. Knows no store and no estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

BUCKET_BASE = 1.1
"""Latencies of one bucket differ by less than this factor."""
MIN_LATENCY_MS = 0.1
MAX_LATENCY_MS = 3_600_000.0

Arm: TypeAlias = tuple[str, str, str]
"""Bundle, variant and experiment."""


def latency_bucket(latency_ms: float) -> int:
    """The bucket of a latency: bucket b holds from 1.1^b up to 1.1^(b + 1) ms."""
    bounded = MIN_LATENCY_MS
    if not math.isnan(latency_ms):
        bounded = min(max(latency_ms, MIN_LATENCY_MS), MAX_LATENCY_MS)
    return math.floor(math.log(bounded) / math.log(BUCKET_BASE))


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """How many requests took how long, by bucket."""

    counts: Mapping[int, int]

    @property
    def n(self) -> int:
        """Requests counted."""
        return sum(self.counts.values())

    def quantile_ms(self, share: float) -> float:
        """The latency that this share of the requests stay below, within 5 %; NaN without any."""
        if not self.n:
            return math.nan
        rank, below = share * self.n, 0
        for bucket in sorted(self.counts):
            below += self.counts[bucket]
            if below >= rank:
                break
        return float(BUCKET_BASE ** (bucket + 0.5))


@dataclass(frozen=True, slots=True)
class KindSums:
    """Engagements of one kind that an arm's slates are credited with."""

    n: int = 0
    items: int = 0
    """Shown items with at least one."""
    slates: int = 0
    """Slates with at least one."""
    value: float = 0.0
    """Sum of their values."""


@dataclass(frozen=True)
class VariantEvidence:
    """What came of the slates of one arm; of the arm `organic`, what came without a slate."""

    bundle_id: str
    variant: str
    experiment: str
    sums: Mapping[str, int]
    """The measures of `evidence_tables.MEASURES`."""
    kinds: Mapping[str, KindSums]
    outcomes: Mapping[tuple[int, str], int]
    """Failed, shed and degraded requests by status and reason."""
    served_latency: LatencyHistogram
    """Time in the pipeline of what was answered."""
    failed_latency: LatencyHistogram

    @property
    def wasted_items(self) -> int:
        """Items shown to no effect so far: no view, no engagement."""
        return self.sums["shown"] - self.sums["touched_items"]


@dataclass(frozen=True)
class UserColumns:
    """One row per user and arm: what sequential tests, CUPED and the delta method need."""

    user_hashes: NDArray[np.int64]  # [R]
    arm_ids: NDArray[np.int64]  # [R] index into `arms`
    arms: tuple[Arm, ...]
    sums: Mapping[str, NDArray[np.int64]]  # [R] each
    kinds: Mapping[str, Mapping[str, NDArray[np.int64]]] = field(default_factory=dict)
    """Per kind the columns n, items, slates, value_milli, [R] each."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.user_hashes)

    def of_arm(self, arm: Arm) -> NDArray[np.bool_]:
        """Which rows are of an arm, [R]."""
        index = self.arms.index(arm) if arm in self.arms else -1
        return np.asarray(self.arm_ids == index)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far the evidence has come."""

    watermark_ms: int
    """The oldest of the partitions' newest times of arrival; 0 before the first event."""
    offsets: Mapping[int, int]
    """The log offset up to which each partition is counted (exclusive)."""


@dataclass(frozen=True, slots=True)
class ShadowSums:
    """What a shadow's answers came to beside the live ones; they hold no person."""

    n: int
    """Copies that were answered or failed."""
    n_failed: int
    n_degraded: int
    n_compared: int
    """Pairs of slates, both with items."""
    overlap: float
    """Mean share of the live slate's items that the shadow showed too; NaN without a pair."""
    rbo: float
    """Mean rank-biased overlap of both orders, p = 0.9; NaN without a pair."""
    live_latency: LatencyHistogram
    shadow_latency: LatencyHistogram
    """Of answers, in the pipeline."""
    reasons: Mapping[str, int]
    """Why copies failed."""
    n_same_order: int = 0
    """Pairs that are the same slate."""
