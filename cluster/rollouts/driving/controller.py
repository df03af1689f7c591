"""Drives rollouts by evidence: observe, judge, advance, record, act; one turn at a time.

The decisions are `rollout`'s and `recsys.evidence`'s. Every move is recorded by compare-and-set
before anything is done, and what is done is safe to repeat, so a controller that is killed
anywhere, or two at once, end in the same state. Serving needs no controller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.rollouts.deciding.preparing import is_shadowing, wants_shadow
from cluster.rollouts.deciding.rollout_record import Observation, Phase, Reason, Rollout, Shadowing
from cluster.rollouts.deciding.rollout_turn import Turn, Verb, decide
from cluster.rollouts.deciding.step_judgement import judge_step
from cluster.rollouts.driving.abandonment import ABANDONED_MS
from cluster.rollouts.driving.controller_lease import ControllerLease
from cluster.rollouts.driving.evidence_source import EvidenceSource
from cluster.rollouts.driving.rollout_actions import FleetControl, Operator
from cluster.rollouts.driving.rollout_runner import TOUCH_MS
from cluster.rollouts.storing.control_writer import ControlWriter, Fence, StoredRollout
from recsys.errors import RolloutConflict, StoreError
from recsys.evidence.judgement import Judgement
from recsys.evidence.shadow_sums_json import shadow_sums_to_json
from recsys.stores.evidence.evidence_sums import ShadowSums

BUSY_S = 0.25
"""Between turns of a rollout that moves."""
IDLE_S = 1.0
"""Between looks where nothing is to be driven, and after the control store was away."""
_LEAST_REFRESH_MS = 2_000
_MOST_REFRESH_MS = 30_000
_REFRESHES = 60
"""A step that only waits is recorded about so often while its age doubles, so that a step of
minutes can be watched and one of days does not fill the store."""

log = logging.getLogger("cluster.rollouts.driving.controller")


@dataclass(frozen=True, slots=True)
class Moved:
    """One recorded turn, for whoever tells people of it."""

    before: Rollout
    after: Rollout


class Controller:
    """One controller; `turn` again and again is all of it.

    Args:
        operator: its name, unlike any other's, and its clock.
        tell: called after each recorded turn, moved or not; must not raise.
        shadow_sums: what the answers of the shadow of this id came to.
        begin_scheduled: starts the rollout of what the schedule published, if that is due.
    """

    def __init__(
        self,
        writer: ControlWriter,
        control: FleetControl,
        lease: ControllerLease,
        source: EvidenceSource,
        operator: Operator,
        tell: Callable[[Moved], None],
        shadow_sums: Callable[[str], ShadowSums],
        begin_scheduled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._writer = writer
        self._control = control
        self._lease = lease
        self._source = source
        self._operator = operator
        self._tell = tell
        self._shadow_sums = shadow_sums
        self._begin_scheduled = begin_scheduled
        self._recorded_ms = 0
        self._leased_ms = 0

    def turn(self) -> float:
        """One turn; returns the seconds until the next is due.

        Raises:
            StoreError: the control store is away; the next turn tries again.
        """
        try:
            if not self._has_lease():
                return IDLE_S
            stored = self._writer.open_rollout()
            if stored is None:
                return BUSY_S if self._begin_scheduled() else IDLE_S
            if not self._is_mine(stored):
                return IDLE_S
            self._move(self._claimed(stored))
        except RolloutConflict as conflict:
            # An operator or another controller moved it first; the next turn sees what it is.
            log.info("%s", conflict)
        return BUSY_S

    def let_go(self) -> None:
        """Let another controller follow at once."""
        self._lease.give_back(self._operator.who)

    def _has_lease(self) -> bool:
        now_ms = self._operator.clock()
        if 0 <= now_ms - self._leased_ms < TOUCH_MS:
            return True
        if not self._lease.take(self._operator.who, now_ms):
            return False
        self._leased_ms = now_ms
        return True

    def _is_mine(self, stored: StoredRollout) -> bool:
        """Whether nobody else drives it; one that is paused may still be refused by a replica."""
        # A time ahead of ours is of another clock, and says nothing for long.
        silent_ms = abs(self._operator.clock() - stored.driven_ms)
        is_left = silent_ms > ABANDONED_MS
        return stored.driver == self._operator.who or is_left

    def _claimed(self, stored: StoredRollout) -> StoredRollout:
        """The rollout, once it says that this controller drives it."""
        now_ms = self._operator.clock()
        if stored.driver == self._operator.who and now_ms - stored.driven_ms <= TOUCH_MS:
            return stored
        fence = Fence(stored.rollout.rollout_id, stored.revision)
        self._writer.touch_rollout(fence, self._operator.who, now_ms)
        return replace(stored, driver=self._operator.who, driven_ms=now_ms)

    def _move(self, stored: StoredRollout) -> None:
        rollout = stored.rollout
        if not rollout.is_settled:
            fence = Fence(rollout.rollout_id, stored.revision)
            if self._control.perform_all(rollout, fence):
                self._record(stored, Turn(Verb.SETTLED, self._operator.clock()))
            return
        seen, judgement = self._look(rollout)
        turn = Turn(Verb.ADVANCE, seen.now_ms, seen, judgement)
        moved = decide(rollout, turn)
        if moved != rollout and self._is_worth_recording(rollout, moved, seen.now_ms):
            self._record(stored, turn)

    def _look(self, rollout: Rollout) -> tuple[Observation, Judgement | None]:
        """What there is to decide on; evidence that cannot be read is no evidence."""
        judgement, shadow, problem = None, None, ""
        try:
            if is_shadowing(rollout):
                shadow = shadow_sums_to_json(self._shadow_sums(rollout.rollout_id))
            elif rollout.phase is Phase.PREPARING and rollout.steps and not wants_shadow(rollout):
                self._source.check()
            elif rollout.phase is Phase.CANARY and rollout.plan is not None:
                judgement = self._judge(rollout)
        except StoreError as error:
            problem = str(error)
        seen = self._control.observe(rollout)
        return replace(seen, shadow=shadow, evidence_problem=problem), judgement

    def _judge(self, rollout: Rollout) -> Judgement | None:
        if rollout.plan is None or rollout.present_step is None:
            return None
        return judge_step(rollout.plan, rollout.step, self._source.samples(rollout))

    def _is_worth_recording(self, rollout: Rollout, moved: Rollout, now_ms: int) -> bool:
        if _place(moved) != _place(rollout):
            return True
        waited_ms = (now_ms - rollout.since_ms) // _REFRESHES
        pause_ms = min(max(waited_ms, _LEAST_REFRESH_MS), _MOST_REFRESH_MS)
        return abs(now_ms - self._recorded_ms) >= pause_ms

    def _record(self, stored: StoredRollout, turn: Turn) -> None:
        before = stored.rollout
        moved = decide(before, turn)
        now_ms = self._operator.clock()
        self._writer.save_rollout(moved, stored.revision, self._operator.who, now_ms, turn=turn)
        self._recorded_ms = now_ms
        if _place(moved) != _place(before):
            self._operator.report(f"{moved.phase}: {moved.message}")
        self._tell(Moved(before, moved))


def _place(rollout: Rollout) -> tuple[Phase, int, Shadowing, Reason, bool]:
    return rollout.phase, rollout.step, rollout.shadow, rollout.reason, rollout.is_settled
