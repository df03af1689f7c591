"""The canary's and the baseline's users of one simulated rollout, and what they did so far.

Draws from a generator that is passed in; the sums are handed out as the evidence store does.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cluster.rollouts.simulation.traffic_shape import Effect, TrafficShape
from recsys.evidence.arm_sample import ArmSample, arm_samples
from recsys.stores.evidence.evidence_sums import (
    BUCKET_BASE,
    LatencyHistogram,
    UserColumns,
    VariantEvidence,
    latency_bucket,
)
from recsys.traffic import BASELINE, CANARY

Counts: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]
_DAY_S = 86_400.0
_SESSION_MS_PER_REQUEST = 30_000.0
_NAME = "simulated"
_SUMS = ("slates", "engaged_slates", "sessions", "session_ms", "purchases", "value_milli")


class SimulatedSlices:
    """Two equal slices of users who ask, engage and buy while time passes.

    Args:
        rng: everything is drawn from it, so the same state gives the same users and requests.
    """

    def __init__(self, shape: TrafficShape, effect: Effect, rng: np.random.Generator) -> None:
        self._shape = shape
        self._rng = rng
        half = shape.users // 2
        self._canary = _Slice(shape, effect, half, rng)
        self._baseline = _Slice(shape, Effect(), half, rng)

    def pass_time(self, share: float, from_s: float, seconds: float) -> None:
        """Let both slices, each this share of all users, do what they do in so many seconds."""
        for one in (self._canary, self._baseline):
            one.pass_time(share, from_s, seconds, self._rng)

    def samples(self) -> dict[str, ArmSample]:
        """Canary and baseline by variant, as the controller reads them."""
        pair = {CANARY: self._canary, BASELINE: self._baseline}
        parts = {variant: one.columns() for variant, one in pair.items()}
        arms = tuple((variant, variant, _NAME) for variant in pair)
        hashes = [
            parts[variant][0] + place * self._shape.users for place, variant in enumerate(pair)
        ]
        ids = [np.full(len(part), place, np.int64) for place, part in enumerate(hashes)]
        columns = _joined([parts[variant][1] for variant in pair])
        now = UserColumns(
            np.concatenate(hashes), np.concatenate(ids), arms, *_split(columns, self._shape)
        )
        before = None
        if self._shape.past_requests:
            past = _joined([parts[variant][2] for variant in pair])
            before = UserColumns(
                np.concatenate(hashes), np.zeros(len(now), np.int64), (), *_split(past, self._shape)
            )
        variants = [one.evidence(variant) for variant, one in pair.items()]
        return dict(arm_samples(now, before, variants, _NAME))

    @property
    def users_exposed(self) -> int:
        """Users who were answered by the canary so far."""
        return self._canary.n_users


class _Slice:
    """The users of one arm in the order in which growing shares take them in."""

    def __init__(
        self, shape: TrafficShape, effect: Effect, n_users: int, rng: np.random.Generator
    ) -> None:
        self._shape = shape
        self._effect = effect
        activity = rng.lognormal(0.0, shape.activity_skew, n_users)
        rates = activity / activity.mean() * shape.requests_per_minute / 60 / shape.users
        self._sum_of_rates = np.cumsum(rates)  # [U] requests/s
        tastes = _tastes(shape, n_users, rng)
        self._chances = np.clip(tastes * (1 + effect.ctr), 0.0, 1.0)  # [U]
        self._sums = {name: np.zeros(n_users, np.int64) for name in _SUMS}
        self._past = {name: np.zeros(n_users, np.int64) for name in _SUMS}
        if shape.past_requests:
            slates = rng.poisson(activity / activity.mean() * shape.past_requests)
            self._past["slates"] = slates
            self._past["engaged_slates"] = rng.binomial(slates, tastes)
        self._chance_of_bucket = _bucket_chances(shape, 1 + effect.latency)
        self._latencies = np.zeros(len(self._chance_of_bucket), np.int64)
        self._n_failed = 0
        self._is_met = np.zeros(n_users, np.bool_)

    @property
    def n_users(self) -> int:
        return int(np.count_nonzero(self._is_met))

    def pass_time(
        self, share: float, from_s: float, seconds: float, rng: np.random.Generator
    ) -> None:
        shape, sums = self._shape, self._sums
        n_within = min(round(share * shape.users), len(self._chances))
        if n_within == 0:
            return
        wave = 1 + shape.daily_drift * math.sin(2 * math.pi * (from_s + seconds / 2) / _DAY_S)
        total_rate = self._sum_of_rates[n_within - 1]
        n_requests = int(rng.poisson(total_rate * seconds * wave))
        error_rate = min(shape.error_rate + self._effect.error_rate, 1.0)
        n_failed = int(rng.binomial(n_requests, error_rate))
        self._n_failed += n_failed
        n_slates = n_requests - n_failed
        # A Poisson number of requests, each of a user drawn by rate, is each user's own Poisson.
        drawn = np.searchsorted(self._sum_of_rates[:n_within], rng.random(n_requests) * total_rate)
        self._is_met[drawn] = True
        users, slates = np.unique(drawn[:n_slates], return_counts=True)
        engaged = rng.binomial(slates, np.minimum(self._chances[users] * wave, 1.0))
        purchases = rng.binomial(engaged, shape.conversion)
        sums["slates"][users] += slates
        sums["engaged_slates"][users] += engaged
        sums["sessions"][users] += rng.binomial(slates, 1 / shape.requests_per_session)
        sums["session_ms"][users] += rng.gamma(slates, _SESSION_MS_PER_REQUEST).astype(np.int64)
        sums["purchases"][users] += purchases
        sums["value_milli"][users] += self._values(purchases, rng)
        self._latencies += rng.multinomial(n_slates, self._chance_of_bucket)

    def columns(self) -> tuple[Counts, dict[str, Counts], dict[str, Counts]]:
        """Users with a slate, what they did, and what they did before, [U] each."""
        users = np.flatnonzero(self._sums["slates"]).astype(np.int64)
        now = {name: column[users] for name, column in self._sums.items()}
        return users, now, {name: column[users] for name, column in self._past.items()}

    def evidence(self, variant: str) -> VariantEvidence:
        slates = int(self._sums["slates"].sum())
        sums = {"slates": slates, "coverage_milli": slates * 1000}
        buckets = np.flatnonzero(self._latencies)
        latencies = {int(place) + _LEAST_BUCKET: int(self._latencies[place]) for place in buckets}
        outcomes = {(500, "simulated"): self._n_failed} if self._n_failed else {}
        return VariantEvidence(
            variant,
            variant,
            _NAME,
            sums,
            {},
            outcomes,
            LatencyHistogram(latencies),
            LatencyHistogram({}),
        )

    def _values(self, purchases: Counts, rng: np.random.Generator) -> Counts:
        """Summed values of each user's purchases in thousandths, [U]."""
        skew = self._shape.value_skew
        owners = np.repeat(np.arange(len(purchases)), purchases)
        drawn = rng.lognormal(-skew * skew / 2, skew, len(owners)) * (1 + self._effect.value)
        summed = np.bincount(owners, drawn * 1000, minlength=len(purchases))
        return np.asarray(summed, np.int64)


_LEAST_BUCKET = latency_bucket(0.0)
_N_BUCKETS = 160


def _bucket_chances(shape: TrafficShape, factor: float) -> Values:
    """The share of latencies in each bucket, [160]."""
    edges = np.log(BUCKET_BASE) * np.arange(_LEAST_BUCKET, _LEAST_BUCKET + _N_BUCKETS + 1)
    middle, sigma = math.log(shape.p50_ms * max(factor, 1e-6)), max(shape.latency_skew, 1e-6)
    below = np.array([math.erf((edge - middle) / sigma / math.sqrt(2)) for edge in edges])
    chances = np.diff(below)
    return np.asarray(chances / chances.sum(), np.float64)


def _tastes(shape: TrafficShape, n_users: int, rng: np.random.Generator) -> Values:
    """Users' own chances of an engagement, of mean `ctr`, [U]."""
    drawn = rng.normal(0.0, shape.taste_skew, n_users)
    if shape.ctr <= 0:
        return np.zeros(n_users)
    odds = shape.ctr / (1 - shape.ctr) * np.exp(drawn)
    chances = odds / (1 + odds)
    return np.asarray(np.clip(chances * shape.ctr / chances.mean(), 0.0, 1.0))


def _joined(parts: list[dict[str, Counts]]) -> dict[str, Counts]:
    return {name: np.concatenate([part[name] for part in parts]) for name in _SUMS}


def _split(columns: dict[str, Counts], shape: TrafficShape) -> tuple[Any, Any]:
    """Sums and kinds as the evidence store names them."""
    slates, engaged = columns["slates"], columns["engaged_slates"]
    nothing = np.zeros_like(slates)
    sums = {
        "slates": slates,
        "shown": slates * shape.items_per_slate,
        "engaged_slates": engaged,
        "engaged_items": engaged,
        "touched_slates": engaged,
        "touched_items": engaged,
        "off_slate": nothing,
        "degraded": nothing,
        "coverage_milli": slates * 1000,
        "sessions": np.maximum(columns["sessions"], np.minimum(slates, 1)),
        "session_ms": columns["session_ms"],
    }
    bought = columns["purchases"]
    clicks = {"n": engaged, "items": engaged, "slates": engaged, "value_milli": nothing}
    buys = {"n": bought, "items": bought, "slates": bought, "value_milli": columns["value_milli"]}
    return sums, {"click": clicks, "purchase": buys}
