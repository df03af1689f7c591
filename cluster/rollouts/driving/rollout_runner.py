"""What an operator does to rollouts: start, steer, abort, undo; and the drive of instant ones.

The decisions are `rollout`'s. A rollout with steps is driven by the controller (`controller`);
whatever kills this process leaves a record that it, or another operator, goes on from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from cluster.rollouts.deciding.rollout_plan import INSTANT, RolloutPlan
from cluster.rollouts.deciding.rollout_plan_file import plan_named
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.deciding.rollout_turn import Turn, Verb, decide
from cluster.rollouts.driving.abandonment import is_abandoned
from cluster.rollouts.driving.controller_lease import ControllerLease
from cluster.rollouts.driving.first_stable import RESTORE, check_bundle, problem_of, set_stable
from cluster.rollouts.driving.first_stable import adopt_first as adopt_first
from cluster.rollouts.driving.first_stable import restore_plan as restore_plan
from cluster.rollouts.driving.rollout_actions import POLL_S, FleetControl, Operator
from cluster.rollouts.driving.rollout_outcome import raise_for_outcome as raise_for_outcome
from cluster.rollouts.driving.rollout_outcome import raise_halted
from cluster.rollouts.driving.rollout_request import RolloutRequest
from cluster.rollouts.driving.rollout_steer import steered, word_of
from cluster.rollouts.storing.control_writer import ControlWriter, Fence, StoredRollout
from recsys.bundles.registry import Registry
from recsys.errors import FleetError, RecsysError, RolloutConflict
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader

TOUCH_MS = 2_000
"""How often its driver says that it still drives."""
_ATTEMPTS = 20


class RolloutRunner:
    """Starts, steers, aborts and undoes rollouts."""

    def __init__(
        self, settings: Settings, registry: Registry, writer: ControlWriter, operator: Operator
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._writer = writer
        self._operator = operator
        self._reader = ControlReader(settings.control_url)
        self._control = FleetControl(settings, writer, self._reader, operator)
        self._lease = ControllerLease(settings.control_url)
        self._request = RolloutRequest(settings, registry, writer, self._reader)

    def start(
        self, bundle_id: str, plan: str | RolloutPlan = INSTANT, *, is_undo: bool = False
    ) -> Rollout:
        """Replace the stable bundle by this one, or go on with the rollout of it that was left.

        Args:
            plan: a built-in plan's name, the path of a TOML file, or a plan.

        Returns:
            An instant rollout when it is closed (see `raise_for_outcome`); any other at once, as
            recorded for the controller.

        Raises:
            ConfigError: the plan cannot be used, or the bundle is stable already.
            RolloutConflict: another rollout is unfinished.
            FleetError: nothing runs, no controller lives, or the fleet does not follow.
            BundleError: the bundle cannot be loaded under these settings.
        """
        chosen = plan_named(plan) if isinstance(plan, str) else plan
        left = self._writer.open_rollout()
        if left is not None and left.rollout.bundle_id == bundle_id and self.is_abandoned(left):
            return self.retry()
        if left is None:
            self._request.check(bundle_id, is_undo=is_undo)
            self._check_alive(chosen)
        now_ms = self._operator.clock()
        rollout = self._request.new_rollout(bundle_id, chosen, now_ms, is_undo=is_undo)
        left_to = 0 if rollout.steps else None
        stored = self._writer.start_rollout(rollout, self._operator.who, now_ms, driven_ms=left_to)
        self._operator.report(f"{rollout.phase}: {rollout.message}")
        return rollout if rollout.steps else self._drive(stored)

    def pause(self, message: str = "paused by the operator") -> Rollout:
        """Hold the present step with its shares, whatever the evidence says.

        Raises:
            RolloutConflict: no rollout is at a canary step.
        """
        return self._steer(Verb.PAUSE, Reason.OPERATOR, message)

    def resume(self, message: str = "resumed by the operator") -> Rollout:
        """Go on with a paused step, which gets its whole time again.

        Raises:
            RolloutConflict: no rollout is paused.
        """
        return self._steer(Verb.RESUME, Reason.OPERATOR, message)

    def step(self, message: str = "skipped by the operator") -> Rollout:
        """Go on to the next share without a verdict, which the record says.

        Raises:
            RolloutConflict: no rollout is at a canary step, or it is at its last one.
        """
        return self._steer(Verb.SKIP, Reason.SKIPPED, message)

    def promote(self, *, full: bool = False, message: str = "") -> Rollout:
        """Give all traffic to the canary: if its last step passes, or with `full` in any case.

        Raises:
            ConfigError: the evidence does not pass it and `full` was not asked for.
            RolloutConflict: no rollout is at a canary step.
            FleetError: not every replica holds the bundle.
        """
        reason = Reason.FORCED if full else Reason.PASSED
        said = message or (
            "promoted by the operator without waiting for evidence"
            if full
            else "promoted by the operator"
        )
        return self._steer(Verb.PROMOTE, reason, said)

    def retry(self) -> Rollout:
        """Go on with the unfinished rollout that its driver left or that halted.

        Returns:
            As `start` does.
        """
        stored = self._open("go on with")
        is_controlled = bool(stored.rollout.steps) and self.is_controller_alive()
        if not (is_controlled or self.is_abandoned(stored) or stored.driver == self._operator.who):
            raise RolloutConflict(
                f"rollout {stored.rollout.rollout_id} is driven by {stored.driver}; "
                "follow it with 'cluster canary status --wait'"
            )
        if stored.rollout.steps and not is_controlled:
            raise _no_controller(stored.rollout.plan_name)
        turn = Turn(Verb.RETRY, self._operator.clock())
        again = decide(stored.rollout, turn)
        if again != stored.rollout:
            stored = self._save(again, stored, turn, driven_ms=0 if again.steps else None)
        return stored.rollout if stored.rollout.steps else self._drive(stored)

    def abort(self, message: str = "aborted by the operator") -> Rollout:
        """End the unfinished rollout, all traffic back to the old bundle; driven from here.

        Raises:
            RolloutConflict: there is none.
            FleetError: it is promoting and the old bundle is not known to be healthy.
        """

        def turn_of(stored: StoredRollout) -> Turn:
            seen = self._control.observe(stored.rollout)
            return Turn(Verb.ABORT, seen.now_ms, seen, None, Reason.OPERATOR, message)

        return self._drive(self._change("abort", turn_of, driven_ms=None))

    def undo(self, to: str | None = None) -> Rollout | None:
        """Lead back to an earlier stable bundle, by a new rollout.

        While nothing runs and the stable bundle is damaged, so that nothing could start, the
        earlier bundle becomes stable at once and None is returned.
        """
        stable_id = self._request.stable_id()
        target = to or self._request.previous(stable_id)
        if not self._control.is_alive() and self._writer.open_rollout() is None:
            problem = problem_of(self._registry, stable_id, self._settings)
            if problem is not None:
                check_bundle(self._registry, target, self._settings)
                now_ms = self._operator.clock()
                set_stable(self._writer, self._settings, target, stable_id, now_ms, RESTORE)
                return None
        return self.start(target, is_undo=True)

    def is_abandoned(self, stored: StoredRollout) -> bool:
        """Whether nobody drives an unfinished rollout any more: no operator and no controller."""
        return is_abandoned(stored, self._lease.read(), self._operator.clock())

    def is_controller_alive(self) -> bool:
        """Whether a controller drives rollouts with steps."""
        return self._lease.is_held(self._operator.clock())

    def _steer(self, verb: Verb, reason: Reason, message: str) -> Rollout:
        """An operator's word to a rollout that the controller drives."""

        def turn_of(stored: StoredRollout) -> Turn:
            seen = self._control.observe(stored.rollout)
            return steered(stored.rollout, Turn(verb, seen.now_ms, seen, None, reason, message))

        return self._change(word_of(verb), turn_of, driven_ms=0).rollout

    def _change(
        self, verb: str, turn_of: Callable[[StoredRollout], Turn], *, driven_ms: int | None
    ) -> StoredRollout:
        for _ in range(_ATTEMPTS):
            stored = self._open(verb)
            turn = turn_of(stored)
            moved = decide(stored.rollout, turn)
            if moved == stored.rollout:
                return stored
            with suppress(RolloutConflict):
                # Its driver moved it in between; what it is now can be changed as well.
                return self._save(moved, stored, turn, driven_ms=driven_ms)
            self._operator.sleep(POLL_S / 10)
        raise RolloutConflict(
            f"the rollout changes faster than it can be told to {verb}; try again"
        )

    def _drive(self, stored: StoredRollout) -> Rollout:
        """Turn after turn to the end; every write is fenced by the record's revision."""
        give_up_ms = self._operator.clock() + self._settings.cluster.ready_timeout_s * 1000
        try:
            while not stored.rollout.is_closed and stored.rollout.phase is not Phase.PAUSED:
                if stored.rollout.reason is Reason.HALTED:
                    raise_halted(stored.rollout)
                before = stored.rollout
                stored = self._turn(stored, give_up_ms)
                if stored.rollout.phase is not before.phase:
                    give_up_ms = (
                        self._operator.clock() + self._settings.cluster.ready_timeout_s * 1000
                    )
        except BaseException:
            self._let_go(stored)
            raise
        return stored.rollout

    def _turn(self, stored: StoredRollout, give_up_ms: int) -> StoredRollout:
        rollout = stored.rollout
        fence = Fence(rollout.rollout_id, stored.revision)
        if not rollout.is_settled:
            if self._control.perform_all(rollout, fence):
                turn = Turn(Verb.SETTLED, self._operator.clock())
                return self._save(decide(rollout, turn), stored, turn)
            if self._operator.clock() > give_up_ms:
                raise self._control.laggard(rollout.epoch)
        else:
            seen = self._control.observe(rollout)
            turn = Turn(Verb.ADVANCE, seen.now_ms, seen)
            moved = decide(rollout, turn)
            if moved != rollout:
                self._operator.report(f"{moved.phase}: {moved.message}")
                return self._save(moved, stored, turn)
        now_ms = self._operator.clock()
        if now_ms - stored.driven_ms > TOUCH_MS:
            self._writer.touch_rollout(fence, self._operator.who, now_ms)
            stored = replace(stored, driven_ms=now_ms)
        self._operator.sleep(POLL_S)
        return stored

    def _let_go(self, stored: StoredRollout) -> None:
        """Let the next operator go on at once, as far as the store can be told."""
        with suppress(RecsysError):
            current = self._writer.open_rollout()
            if current is not None and current.driver == self._operator.who:
                fence = Fence(stored.rollout.rollout_id, current.revision)
                self._writer.touch_rollout(fence, self._operator.who, 0)

    def _save(
        self, rollout: Rollout, before: StoredRollout, turn: Turn, driven_ms: int | None = None
    ) -> StoredRollout:
        return self._writer.save_rollout(
            rollout,
            before.revision,
            self._operator.who,
            self._operator.clock(),
            turn=turn,
            driven_ms=driven_ms,
        )

    def _open(self, verb: str) -> StoredRollout:
        stored = self._writer.open_rollout()
        if stored is None:
            raise RolloutConflict(
                f"there is no unfinished rollout to {verb}; see 'cluster canary history', "
                "and 'cluster canary undo' leads back after a promotion"
            )
        return stored

    def _check_alive(self, plan: RolloutPlan) -> None:
        if not self._control.is_alive():
            raise FleetError(
                "no gateway reports to the control store, expected at least 1; "
                "start the cluster with 'cluster up --wait' and run it again"
            )
        if plan.steps and not self.is_controller_alive():
            raise _no_controller(plan.name)


def _no_controller(plan_name: str) -> FleetError:
    return FleetError(
        f"no controller reports to the control store, expected one to drive plan '{plan_name}'; "
        "see application 'control' in 'cluster status', run 'cluster up --wait', "
        "or use '--plan instant'"
    )
