"""Drives a rollout to its end from the operator's process: observe, decide, record, act.

The decisions are `rollout`'s. Whatever kills this process leaves a record to go on from.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn

from cluster.rollouts.control_writer import ControlWriter, Fence, StoredRollout
from cluster.rollouts.first_stable import RESTORE, check_bundle, problem_of, set_stable, way_back
from cluster.rollouts.first_stable import adopt_first as adopt_first
from cluster.rollouts.first_stable import restore_plan as restore_plan
from cluster.rollouts.rollout import abort, actions_of, advance, retry
from cluster.rollouts.rollout_actions import POLL_S, FleetControl, Operator
from cluster.rollouts.rollout_record import Phase, Reason, Rollout, earlier_stables
from recsys.bundles.registry import Registry
from recsys.errors import AbortedByEvidence, ConfigError, FleetError, RecsysError, RolloutConflict
from recsys.settings import Settings
from recsys.stores.control import ControlReader
from recsys.traffic import STABLE

INSTANT = "instant"
PLANS: dict[str, tuple[float, ...]] = {INSTANT: ()}
"""Plan name to the traffic shares of its steps."""
ABANDONED_MS = 10_000
"""A rollout nobody moved for so long was left by its driver."""
TOUCH_MS = 2_000
"""How often its driver says that it still drives."""
_ABORT_ATTEMPTS = 20


class RolloutRunner:
    """Starts, drives, aborts and undoes rollouts."""

    def __init__(
        self, settings: Settings, registry: Registry, writer: ControlWriter, operator: Operator
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._writer = writer
        self._operator = operator
        self._reader = ControlReader(settings.control_url)
        self._control = FleetControl(settings, writer, self._reader, operator)

    def start(self, bundle_id: str, plan_name: str = INSTANT, *, is_undo: bool = False) -> Rollout:
        """Replace the stable bundle by this one, or go on with the rollout of it that was left.

        Returns:
            The closed rollout; see `raise_for_outcome`.

        Raises:
            RolloutConflict: another rollout is unfinished.
            FleetError: nothing runs, or the fleet does not follow.
            BundleError: the bundle cannot be loaded under these settings.
        """
        if plan_name not in PLANS:
            raise ConfigError(
                f"rollout plan '{plan_name}' does not exist, expected one of {', '.join(PLANS)}; "
                f"use '--plan {INSTANT}'"
            )
        left = self._writer.open_rollout()
        if left is not None and left.rollout.bundle_id == bundle_id and self.is_abandoned(left):
            return self.retry()
        if left is None:
            self._check_can_start(bundle_id)
        rollout = self._new_rollout(bundle_id, plan_name, is_undo=is_undo)
        stored = self._writer.start_rollout(rollout, self._operator.who, self._operator.clock())
        self._operator.report(f"{rollout.phase}: {rollout.message}")
        return self._drive(stored)

    def retry(self) -> Rollout:
        """Go on with the unfinished rollout that its driver left or that halted."""
        stored = self._open("go on with")
        if not self.is_abandoned(stored) and stored.driver != self._operator.who:
            raise RolloutConflict(
                f"rollout {stored.rollout.rollout_id} is driven by {stored.driver}; "
                "follow it with 'cluster canary status --wait'"
            )
        now_ms = self._operator.clock()
        again = retry(stored.rollout, now_ms)
        if again != stored.rollout:
            stored = self._save(again, stored)
        return self._drive(stored)

    def abort(self, message: str = "aborted by the operator") -> Rollout:
        """End the unfinished rollout, all traffic back to the old bundle.

        Raises:
            RolloutConflict: there is none.
            FleetError: it is promoting and the old bundle is not known to be healthy.
        """
        for _ in range(_ABORT_ATTEMPTS):
            stored = self._open("abort")
            seen = self._control.observe(stored.rollout)
            ended, _ = abort(stored.rollout, seen, Reason.OPERATOR, message)
            try:
                stored = stored if ended == stored.rollout else self._save(ended, stored)
            except RolloutConflict:
                # Its driver moved it in between; what it is now can be aborted as well.
                continue
            return self._drive(stored)
        raise RolloutConflict("the rollout changes faster than it can be aborted; try again")

    def undo(self, to: str | None = None) -> Rollout | None:
        """Lead back to an earlier stable bundle, by a new rollout.

        While nothing runs and the stable bundle is damaged, so that nothing could start, the
        earlier bundle becomes stable at once and None is returned.
        """
        stable_id = self._stable_id()
        target = to or self._previous(stable_id)
        if not self._control.is_alive() and self._writer.open_rollout() is None:
            problem = problem_of(self._registry, stable_id, self._settings)
            if problem is not None:
                check_bundle(self._registry, target, self._settings)
                now_ms = self._operator.clock()
                set_stable(self._writer, self._settings, target, stable_id, now_ms, RESTORE)
                return None
        return self.start(target, is_undo=True)

    def is_abandoned(self, stored: StoredRollout) -> bool:
        """Whether nobody drives an unfinished rollout any more."""
        return self._operator.clock() - stored.driven_ms > ABANDONED_MS

    def _drive(self, stored: StoredRollout) -> Rollout:
        """Turn after turn to the end; every write is fenced by the record's revision."""
        try:
            while not stored.rollout.is_closed and stored.rollout.phase is not Phase.PAUSED:
                if stored.rollout.reason is Reason.HALTED:
                    _raise_halted(stored.rollout)
                stored = self._turn(stored)
        except BaseException:
            self._let_go(stored)
            raise
        return stored.rollout

    def _turn(self, stored: StoredRollout) -> StoredRollout:
        rollout = stored.rollout
        fence = Fence(rollout.rollout_id, stored.revision)
        if not rollout.is_settled:
            for action in actions_of(rollout):
                self._control.perform(action, fence)
            return self._save(replace(rollout, is_settled=True), stored)
        moved, _ = advance(rollout, self._control.observe(rollout))
        if moved != rollout:
            self._operator.report(f"{moved.phase}: {moved.message}")
            return self._save(moved, stored)
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

    def _save(self, rollout: Rollout, before: StoredRollout) -> StoredRollout:
        return self._writer.save_rollout(
            rollout, before.revision, self._operator.who, self._operator.clock()
        )

    def _open(self, verb: str) -> StoredRollout:
        stored = self._writer.open_rollout()
        if stored is None:
            raise RolloutConflict(
                f"there is no unfinished rollout to {verb}; see 'cluster canary history', "
                "and 'cluster canary undo' leads back after a promotion"
            )
        return stored

    def _stable_id(self) -> str:
        stable_id = self._reader.view().aliases.get(STABLE)
        if stable_id is None:
            raise FleetError(
                "no bundle is stable yet, expected one to replace; "
                "run 'cluster up --wait', which takes the newest bundle"
            )
        return stable_id

    def _previous(self, stable_id: str) -> str:
        rollouts = [stored.rollout for stored in self._writer.rollouts()]
        earlier = earlier_stables(rollouts, stable_id)
        if not earlier:
            view = self._reader.view()
            raise ConfigError(
                f"no bundle was stable before {stable_id}; name one with 'cluster canary undo "
                f"--to BUNDLE': {way_back(self._registry, self._settings, view, (stable_id,))}"
            )
        return earlier[0]

    def _check_can_start(self, bundle_id: str) -> None:
        if bundle_id == self._stable_id():
            raise ConfigError(
                f"bundle {bundle_id} is already stable, expected another one; "
                "see 'cluster bundle list'"
            )
        if not self._control.is_alive():
            raise FleetError(
                "no gateway reports to the control store, expected at least 1; "
                "start the cluster with 'cluster up --wait' and run it again"
            )
        check_bundle(self._registry, bundle_id, self._settings)

    def _new_rollout(self, bundle_id: str, plan_name: str, *, is_undo: bool) -> Rollout:
        now_ms = self._operator.clock()
        stable_id = self._stable_id()
        earlier = earlier_stables([stored.rollout for stored in self._writer.rollouts()], stable_id)
        required = self._reader.view().required
        resident = [name for name in earlier if name in required and name != bundle_id]
        moment = datetime.fromtimestamp(now_ms / 1000, UTC)
        return Rollout(
            rollout_id=f"r{moment:%Y%m%d-%H%M%S}-{now_ms % 1000:03d}",
            bundle_id=bundle_id,
            stable_id=stable_id,
            plan_name=plan_name,
            steps=PLANS[plan_name],
            resident_before=required,
            resident_after=(
                bundle_id,
                *(stable_id, *resident)[: self._settings.serve.keep_resident],
            ),
            started_ms=now_ms,
            ready_timeout_ms=self._settings.cluster.ready_timeout_s * 1000,
            since_ms=now_ms,
            is_undo=is_undo,
        )


def _raise_halted(rollout: Rollout) -> NoReturn:
    raise FleetError(f"rollout {rollout.rollout_id} {rollout.message}")


def raise_for_outcome(rollout: Rollout) -> None:
    """Say by an error how a closed rollout failed; promoted is no error.

    Raises:
        AbortedByEvidence: replicas refused the bundle, or the judge did.
        RolloutConflict: an operator aborted it.
        FleetError: the fleet did not load or follow it in time.
    """
    if rollout.phase is not Phase.ABORTED:
        return
    message = (
        f"rollout {rollout.rollout_id} of {rollout.bundle_id} was aborted: {rollout.message}; "
        f"{rollout.stable_id} answers"
    )
    if rollout.reason is Reason.OPERATOR:
        raise RolloutConflict(message)
    if rollout.reason is Reason.LATE:
        raise FleetError(f"{message}; see 'cluster status', then start it again")
    raise AbortedByEvidence(message)
