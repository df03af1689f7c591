"""Whether an unfinished rollout still has somebody who drives it. Pure, over rows and the time."""

from __future__ import annotations

from cluster.rollouts.deciding.rollout_record import Phase
from cluster.rollouts.driving.controller_lease import Lease
from cluster.rollouts.storing.rollout_rows import StoredRollout

ABANDONED_MS = 10_000
"""A rollout nobody moved for so long was left by its driver."""
TAKEOVER_MS = 45_000
"""A controller that died is started anew and takes up its rollout within this time."""


def is_abandoned(stored: StoredRollout, lease: Lease | None, now_ms: int) -> bool:
    """Whether nobody drives it any more: no operator, no controller and none that will follow.

    A paused rollout waits for its operator and is not abandoned.
    """
    rollout = stored.rollout
    if rollout.is_closed or (rollout.phase is Phase.PAUSED and rollout.is_settled):
        return False
    if now_ms - stored.driven_ms <= ABANDONED_MS:
        return False
    if not rollout.steps:
        return True
    return lease is None or not (lease.is_held(now_ms) or is_followed(lease, now_ms))


def is_followed(lease: Lease, now_ms: int) -> bool:
    """Whether the owner was heard so lately that its successor may still be on its way."""
    return 0 <= now_ms - lease.renewed_ms <= TAKEOVER_MS
