"""The shape of the traffic that the evidence store has counted. Reads only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.rollouts.simulation.traffic_shape import TrafficShape
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.evidence.evidence_sums import LatencyHistogram, UserColumns, VariantEvidence
from recsys.stores.evidence.evidence_tables import DAY_MS, HOUR_MS

LOOK_BACK_DAYS = 7
MIN_SLATES = 200
"""Less says nothing about a day's traffic."""
_P99 = 2.326


@dataclass(frozen=True)
class LoggedTraffic:
    """The shape, and what it was taken from."""

    shape: TrafficShape
    slates: int
    users: int
    hours: float


def logged_traffic(reader: EvidenceReader) -> LoggedTraffic | None:
    """What the last seven days up to the newest event were like; None where there is too little.

    Raises:
        StoreError: the evidence cannot be read.
    """
    until_ms = reader.coverage().watermark_ms + 1
    if until_ms <= 1:
        return None
    since_ms = _first_hour_ms(reader, until_ms)
    arms = [arm for arm in reader.by_variant(None, since_ms, until_ms) if arm.sums["slates"]]
    users = reader.per_user(None, since_ms, until_ms)
    slates = sum(arm.sums["slates"] for arm in arms)
    hours = max((until_ms - since_ms) / HOUR_MS, 1 / 60)
    if slates < MIN_SLATES:
        return None
    return traffic_of(arms, users, hours)


def traffic_of(arms: Sequence[VariantEvidence], users: UserColumns, hours: float) -> LoggedTraffic:
    """The shape of counted traffic.

    Args:
        hours: over which it was counted.
    """
    slates, shown, engaged = (
        sum(arm.sums[name] for arm in arms) for name in ("slates", "shown", "engaged_slates")
    )
    failed = sum(n for arm in arms for (status, _), n in arm.outcomes.items() if status >= 500)
    per_user = _slates_per_user(users)
    mean = float(per_user.mean()) if len(per_user) else 1.0
    # What is left of the variance once chance, a Poisson's, is taken out.
    excess = max(float(per_user.var()) - mean, 0.0) / (mean * mean) if len(per_user) else 0.0
    usual = TrafficShape()
    p50_ms, skew = _latency(arms, usual)
    sessions = sum(arm.sums["sessions"] for arm in arms)
    shape = TrafficShape(
        requests_per_minute=(slates + failed) / hours / 60,
        users=max(len(per_user), 10),
        activity_skew=min(math.sqrt(math.log1p(excess)), 4.0),
        ctr=min(engaged / slates, 0.99) if slates else usual.ctr,
        error_rate=min(failed / (slates + failed), 0.99) if slates + failed else 0.0,
        p50_ms=p50_ms,
        latency_skew=skew,
        requests_per_session=max(slates / sessions, 1.0) if sessions else 1.0,
        items_per_slate=max(round(shown / slates), 1) if slates else usual.items_per_slate,
    )
    return LoggedTraffic(shape, slates, len(per_user), hours)


def _first_hour_ms(reader: EvidenceReader, until_ms: int) -> int:
    """The first hour with slates of the days looked at."""
    day_ms = until_ms - LOOK_BACK_DAYS * DAY_MS
    for length_ms in (DAY_MS, HOUR_MS):
        while day_ms < until_ms:
            found = reader.by_variant(None, day_ms, min(day_ms + length_ms, until_ms))
            if any(arm.sums["slates"] for arm in found):
                break
            day_ms += length_ms
    return min(day_ms, until_ms - 1)


def _slates_per_user(users: UserColumns) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Slates of each user with at least one, over all arms, [U]."""
    if not len(users):
        return np.zeros(0)
    _, place = np.unique(users.user_hashes, return_inverse=True)
    slates = np.bincount(place.reshape(-1), users.sums["slates"]).astype(np.float64)
    return slates[slates > 0]


def _latency(arms: Sequence[VariantEvidence], usual: TrafficShape) -> tuple[float, float]:
    """Median in ms and sigma of the lognormal with the same 99th percentile."""
    counts: dict[int, int] = {}
    for arm in arms:
        for bucket, n in arm.served_latency.counts.items():
            counts[bucket] = counts.get(bucket, 0) + n
    histogram = LatencyHistogram(counts)
    if histogram.n < MIN_SLATES:
        return usual.p50_ms, usual.latency_skew
    p50_ms = histogram.quantile_ms(0.5)
    skew = math.log(histogram.quantile_ms(0.99) / p50_ms) / _P99
    return p50_ms, min(max(skew, 0.01), 4.0)
