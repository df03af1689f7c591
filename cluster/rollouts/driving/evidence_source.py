"""What one rollout's canary and baseline came to, read from the evidence store.

Reads only. Users, slates, outcomes and latencies all carry the rollout's id. Reactions that are
still to come are missing from both slices alike, because both got their users at the same moments;
`RolloutPlan.min_time_s` bounds how many they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster.rollouts.deciding.rollout_record import Rollout
from recsys.evidence.arm_sample import KIND_MEANINGS, ArmSample, KindMeanings, arm_samples
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.evidence.evidence_sums import Arm, LatencyHistogram, UserColumns, VariantEvidence
from recsys.stores.evidence.evidence_tables import DAY_MS, HOUR_MS, MEASURES
from recsys.traffic import BASELINE, CANARY

BEFORE_DAYS = 14
"""How far back a user's own past is read, to take out what was there before."""
CLOCKS_APART_MS = 60_000
"""A gateway's clock may be behind the controller's; what is counted names the rollout anyway."""
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

    def check(self) -> None:
        """See that the evidence can be read, before a first user makes any.

        Raises:
            StoreError: it cannot.
        """
        self._reader.coverage()

    def samples(self, rollout: Rollout) -> dict[str, ArmSample]:
        """Canary and baseline by variant, since the canary's first user.

        Raises:
            StoreError: the evidence cannot be read.
        """
        opened_ms = rollout.opened_ms or rollout.started_ms
        variants = self._arms(rollout, opened_ms - CLOCKS_APART_MS)
        users = self._columns(rollout)
        return dict(arm_samples(users.now, users.before, variants, rollout.rollout_id, self._kinds))

    def close(self) -> None:
        """Give the store back."""
        self._reader.close()

    def _arms(self, rollout: Rollout, since_ms: int) -> list[VariantEvidence]:
        """Both slices, each empty where nothing was counted yet."""
        bundles = {CANARY: rollout.bundle_id, BASELINE: rollout.stable_id}
        until_ms = self._clock() + HOUR_MS  # a replica's clock may be ahead
        hour_ms = since_ms - since_ms % HOUR_MS
        found = {
            (arm.bundle_id, arm.variant, arm.experiment): arm
            for arm in self._reader.by_variant(set(bundles.values()), hour_ms, until_ms)
        }
        arms = [(bundle_id, name, rollout.rollout_id) for name, bundle_id in bundles.items()]
        return [found.get(arm) or _empty(arm) for arm in arms]

    def _columns(self, rollout: Rollout) -> _Users:
        kept, began_ms = self._users, self._clock()
        if kept is None or (kept.rollout_id, kept.step) != (rollout.rollout_id, rollout.step):
            kept = None
        elif began_ms < kept.good_until_ms:
            return kept
        opened_ms = rollout.opened_ms or rollout.started_ms
        ids = {rollout.bundle_id, rollout.stable_id}
        since_ms = opened_ms - CLOCKS_APART_MS
        now = self._reader.per_user(ids, since_ms, began_ms + HOUR_MS)
        before = self._before(rollout.rollout_id, opened_ms) if kept is None else kept.before
        took_ms = self._clock() - began_ms
        good_until_ms = began_ms + took_ms + max(_MIN_PAUSE_MS, _PAUSE_PER_READ * took_ms)
        self._users = _Users(rollout.rollout_id, rollout.step, now, before, good_until_ms)
        return self._users

    def _before(self, rollout_id: str, opened_ms: int) -> UserColumns:
        since_ms = opened_ms - BEFORE_DAYS * DAY_MS
        return _without(self._reader.per_user(None, since_ms, opened_ms), rollout_id)


def _empty(arm: Arm) -> VariantEvidence:
    nothing = LatencyHistogram({})
    return VariantEvidence(*arm, dict.fromkeys(MEASURES, 0), {}, {}, nothing, nothing)


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
