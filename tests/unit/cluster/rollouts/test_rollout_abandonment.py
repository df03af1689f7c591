"""When an unfinished rollout counts as left by everybody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.rollouts.deciding.rollout_record import Phase, Rollout
from cluster.rollouts.driving.abandonment import ABANDONED_MS, TAKEOVER_MS, is_abandoned
from cluster.rollouts.driving.controller_lease import LEASE_MS, Lease
from cluster.rollouts.storing.rollout_rows import StoredRollout

NOW_MS = 1_700_000_000_000
STEPPED = Rollout(
    "r1", "b2", "b1", "fast", (0.1, 0.5), ("b1",), ("b2", "b1"), 0, 60_000, 0, phase=Phase.CANARY
)
INSTANT = replace(STEPPED, steps=(), phase=Phase.PREPARING)


def stored(rollout: Rollout, driven_ago_ms: int) -> StoredRollout:
    """The rollout, last driven so long ago."""
    return StoredRollout(rollout, 3, "somebody", NOW_MS - driven_ago_ms)


def lease(renewed_ago_ms: int) -> Lease:
    """A controller's row, last renewed so long ago."""
    renewed_ms = NOW_MS - renewed_ago_ms
    return Lease("controller", renewed_ms, renewed_ms + LEASE_MS)


@pytest.mark.parametrize(
    ("renewed_ago_ms", "is_left"),
    [(1_000, False), (LEASE_MS + 1_000, False), (TAKEOVER_MS + 1, True), (None, True)],
)
def test_steps_wait_for_the_controller_that_follows_a_dead_one(
    renewed_ago_ms: int | None, is_left: bool
) -> None:
    """A controller is started anew within seconds; whoever waits for the rollout waits for that."""
    row = None if renewed_ago_ms is None else lease(renewed_ago_ms)
    assert is_abandoned(stored(STEPPED, ABANDONED_MS + 1), row, NOW_MS) is is_left


def test_an_instant_rollout_is_left_when_its_operator_is_silent() -> None:
    """No controller takes it up, however well it is."""
    assert is_abandoned(stored(INSTANT, ABANDONED_MS + 1), lease(0), NOW_MS)
    assert not is_abandoned(stored(INSTANT, ABANDONED_MS), lease(0), NOW_MS)


def test_a_paused_or_closed_rollout_waits_for_nobody() -> None:
    """Whatever became of its driver."""
    for phase in (Phase.PAUSED, Phase.PROMOTED, Phase.ABORTED):
        assert not is_abandoned(stored(replace(STEPPED, phase=phase), 10**9), None, NOW_MS)
