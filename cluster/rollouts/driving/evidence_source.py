"""What one rollout's canary and baseline came to, read from the evidence store.

Reads only. Users and slates carry the rollout's id; outcomes and latencies do not, so their totals
at the canary's first user are taken off. Reactions that are still to come are missing from both
slices alike, because both got their users at the same moments; `RolloutPlan.min_time_s` bounds how
many they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.rollouts.deciding.rollout_record import Rollout
from recsys.evidence.arm_sample import KIND_MEANINGS, ArmSample, KindMeanings, arm_samples
from recsys.stores.evidence import EvidenceReader
from recsys.stores.evidence_sums import LatencyHistogram, UserColumns, VariantEvidence
from recsys.stores.evidence_tables import DAY_MS, HOUR_MS, MEASURES
from recsys.traffic import BASELINE, CANARY

BEFORE_DAYS = 14
"""How far back a user's own past is read, to take out what was there before."""
_MIN_PAUSE_MS = 2_000
_PAUSE_PER_READ = 10
"""Users are read again after so many times what reading them took."""


@dataclass(frozen=True)
class _Users:
    rollout_id: str
    step: int
    now: UserColumns
    before: UserColumns
    good_until_ms: int


class EvidenceSource:
    """Reads for one controller; the columns of users are kept for a while, since they are many.

    Args:
        clock: Unix time in milliseconds.
        kinds: what engagements are worth in the utility.
    """

    def __init__(
        self,
        reader: EvidenceReader,
        clock: Callable[[], int],
        kinds: KindMeanings = KIND_MEANINGS,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._kinds = kinds
        self._users: _Users | None = None

    def totals(self, rollout: Rollout) -> dict[str, Any]:
        """Outcomes and latencies of both slices so far, as JSON: what a later turn takes off.

        Raises:
            StoreError: the evidence cannot be read.
        """
        now_ms = self._clock()
        since_ms = now_ms - now_ms % HOUR_MS
        arms = self._arms(rollout, since_ms)
        return {
            "since_ms": since_ms,
            "arms": {variant: _totals(arm) for variant, arm in arms.items()},
        }

    def samples(self, rollout: Rollout) -> dict[str, ArmSample]:
        """Canary and baseline by variant, since the canary's first user.

        Raises:
            StoreError: the evidence cannot be read.
        """
        opening = rollout.opening or {"since_ms": rollout.started_ms, "arms": {}}
        arms = self._arms(rollout, int(opening["since_ms"]))
        variants = [_less(arm, opening["arms"].get(variant)) for variant, arm in arms.items()]
        users = self._columns(rollout)
        return dict(arm_samples(users.now, users.before, variants, rollout.rollout_id, self._kinds))

    def close(self) -> None:
        """Give the store back."""
        self._reader.close()

    def _arms(self, rollout: Rollout, since_ms: int) -> dict[str, VariantEvidence]:
        bundles = {CANARY: rollout.bundle_id, BASELINE: rollout.stable_id}
        until_ms = self._clock() + HOUR_MS  # a replica's clock may be ahead
        hour_ms = since_ms - since_ms % HOUR_MS
        found = self._reader.by_variant(set(bundles.values()), hour_ms, until_ms)
        return {
            variant: _arm(found, bundle_id, variant, rollout.rollout_id)
            for variant, bundle_id in bundles.items()
        }

    def _columns(self, rollout: Rollout) -> _Users:
        kept, began_ms = self._users, self._clock()
        if kept is None or (kept.rollout_id, kept.step) != (rollout.rollout_id, rollout.step):
            kept = None
        elif began_ms < kept.good_until_ms:
            return kept
        opened_ms = rollout.opened_ms or rollout.started_ms
        ids = {rollout.bundle_id, rollout.stable_id}
        now = self._reader.per_user(ids, opened_ms, began_ms + HOUR_MS)
        before = self._before(rollout.rollout_id, opened_ms) if kept is None else kept.before
        took_ms = self._clock() - began_ms
        good_until_ms = began_ms + took_ms + max(_MIN_PAUSE_MS, _PAUSE_PER_READ * took_ms)
        self._users = _Users(rollout.rollout_id, rollout.step, now, before, good_until_ms)
        return self._users

    def _before(self, rollout_id: str, opened_ms: int) -> UserColumns:
        since_ms = opened_ms - BEFORE_DAYS * DAY_MS
        return _without(self._reader.per_user(None, since_ms, opened_ms), rollout_id)


def _arm(
    found: Sequence[VariantEvidence], bundle_id: str, variant: str, experiment: str
) -> VariantEvidence:
    """One slice: slates of this rollout, outcomes and latencies of its bundle and variant."""
    same = [arm for arm in found if (arm.bundle_id, arm.variant) == (bundle_id, variant)]
    own = next((arm for arm in same if arm.experiment == experiment), None)
    of_all = own or next(iter(same), None)
    nothing = LatencyHistogram({})
    return VariantEvidence(
        bundle_id,
        variant,
        experiment,
        dict.fromkeys(MEASURES, 0) if own is None else own.sums,
        {} if own is None else own.kinds,
        {} if of_all is None else of_all.outcomes,
        nothing if of_all is None else of_all.served_latency,
        nothing if of_all is None else of_all.failed_latency,
    )


def _totals(arm: VariantEvidence) -> dict[str, Any]:
    return {
        "outcomes": [[*key, n] for key, n in sorted(arm.outcomes.items())],
        "served": _by_bucket(arm.served_latency),
        "failed": _by_bucket(arm.failed_latency),
    }


def _by_bucket(histogram: LatencyHistogram) -> list[list[int]]:
    return [[bucket, n] for bucket, n in sorted(histogram.counts.items())]


def _less(arm: VariantEvidence, opening: Mapping[str, Any] | None) -> VariantEvidence:
    """The slice without what was counted before its first user."""
    if opening is None:
        return arm
    before = {(int(status), str(reason)): int(n) for status, reason, n in opening["outcomes"]}
    outcomes = {key: n - before.get(key, 0) for key, n in arm.outcomes.items()}
    return replace(
        arm,
        outcomes={key: n for key, n in outcomes.items() if n > 0},
        served_latency=_latency_less(arm.served_latency, opening["served"]),
        failed_latency=_latency_less(arm.failed_latency, opening["failed"]),
    )


def _latency_less(
    histogram: LatencyHistogram, opening: Sequence[Sequence[int]]
) -> LatencyHistogram:
    before = {int(bucket): int(n) for bucket, n in opening}
    counts = {bucket: n - before.get(bucket, 0) for bucket, n in histogram.counts.items()}
    return LatencyHistogram({bucket: n for bucket, n in counts.items() if n > 0})


def _without(users: UserColumns, experiment: str) -> UserColumns:
    """The rows of other arms than this rollout's: what its users did before it."""
    own = [place for place, arm in enumerate(users.arms) if arm[2] == experiment]
    kept = ~np.isin(users.arm_ids, own)
    return UserColumns(
        users.user_hashes[kept],
        users.arm_ids[kept],
        users.arms,
        {name: column[kept] for name, column in users.sums.items()},
        {
            kind: {name: column[kept] for name, column in columns.items()}
            for kind, columns in users.kinds.items()
        },
    )
