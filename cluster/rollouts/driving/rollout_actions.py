"""The thin shell under a rollout: what is seen of the fleet, and each action carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.rollouts.deciding.observation import (
    bundle_health,
    expected_replicas,
    followed_epoch,
    gateway_epochs,
    with_skew,
)
from cluster.rollouts.deciding.rollout import actions_of
from cluster.rollouts.deciding.rollout_record import (
    Action,
    ClearShadow,
    Observation,
    Release,
    Require,
    Rollout,
    SetAlias,
    SetPlan,
    SetShadow,
)
from cluster.rollouts.driving.living_rows import LivingRows
from cluster.rollouts.storing.control_writer import ControlWriter, Fence
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_writer import ShadowWriter
from recsys.errors import FleetError
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader

POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts, and the clock and ears of that process.

    Args:
        who: goes into the record and the history.
        clock: Unix time in milliseconds.
        sleep: waits so many seconds.
        report: takes one line of progress.
    """

    who: str
    clock: Callable[[], int]
    sleep: Callable[[float], None]
    report: Callable[[str], None]


class FleetControl:
    """The running fleet as the control store shows it, and the levers a rollout may pull.

    Args:
        shadows: None writes them to the control store of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        writer: ControlWriter,
        reader: ControlReader,
        operator: Operator,
        shadows: ShadowWriter | None = None,
    ) -> None:
        self._settings = settings
        self._expected = expected_replicas(settings)
        self._writer = writer
        self._reader = reader
        self._operator = operator
        self._shadows = shadows or ShadowWriter(settings.control_url)
        self._living = LivingRows(reader.readiness, operator.clock, operator.sleep)

    def observe(self, rollout: Rollout) -> Observation:
        """What one turn of the rollout decides on; evidence is not read."""
        rows = self._living.look()
        plan = self._reader.view().plan
        now_ms = self._operator.clock()
        candidate = bundle_health(rows, self._expected, rollout.bundle_id, now_ms)
        stable = bundle_health(rows, self._expected, rollout.stable_id, now_ms)
        return Observation(
            now_ms=now_ms,
            plan_epoch=0 if plan is None else plan.epoch,
            candidate=with_skew(candidate, self._living.skews),
            stable=with_skew(stable, self._living.skews),
            followed_epoch=followed_epoch(rows, self._expected, now_ms),
        )

    def is_alive(self) -> bool:
        """Whether any gateway lives; one whose clock is off is seen within seconds."""
        return self._living.has_gateway()

    def perform_all(self, rollout: Rollout, fence: Fence) -> bool:
        """Carry out the actions of a record in their order; again is as good as once.

        Returns:
            False while a gateway has to be waited for: ask again.

        Raises:
            RolloutConflict: the rollout, or what it changes, is no longer what it was.
        """
        return all(self._perform(action, fence) for action in actions_of(rollout))

    def laggard(self, epoch: int) -> FleetError:
        """The error of a fleet that does not follow a traffic plan."""
        epochs = gateway_epochs(self._living.look(), self._operator.clock())
        return FleetError(
            f"a gateway follows traffic plan {epochs[0] if epochs else 'none'} after "
            f"{self._settings.cluster.ready_timeout_s} s, expected {epoch}; look for its log with "
            "'cluster doctor', then run 'cluster canary retry'"
        )

    def _perform(self, action: Action, fence: Fence) -> bool:
        view = self._reader.view()
        match action:
            case Require(bundle_ids):
                self._writer.set_required(bundle_ids, view.required, fence=fence)
            case SetPlan(plan):
                epoch = 0 if view.plan is None else view.plan.epoch
                self._writer.set_plan(plan, epoch, fence=fence)
            case SetAlias(name, bundle_id, instead_of):
                self._writer.set_alias(name, bundle_id, instead_of, fence=fence)
            case Release(bundle_ids, epoch):
                # No bundle goes while a gateway may still send requests to it.
                epochs = gateway_epochs(self._living.look(), self._operator.clock())
                if epochs and epochs[0] < epoch:
                    return False
                self._writer.set_required(bundle_ids, view.required, fence=fence)
            case SetShadow() as shadow:
                record = self._record(shadow, ShadowState.RUNNING)
                self._shadows.ensure_running(record, self._operator.who, self._operator.clock())
            case ClearShadow(shadow, why):
                self._close(shadow, why)
        return True

    def _close(self, shadow: SetShadow, why: str) -> None:
        """End a shadow for ever, so that a controller that is late does not begin it."""
        who, now_ms = self._operator.who, self._operator.clock()
        if self._shadows.ensure_closed(shadow.shadow_id, who, now_ms, why) is None:
            self._shadows.start(self._record(shadow, ShadowState.PREPARING), who, now_ms)
            self._shadows.ensure_closed(shadow.shadow_id, who, now_ms, why)

    def _record(self, shadow: SetShadow, state: ShadowState) -> ShadowRecord:
        return ShadowRecord(
            shadow.shadow_id,
            shadow.bundle_id,
            shadow.share,
            state,
            self._operator.who,
            shadow.started_ms,
            rollout_id=shadow.shadow_id,
        )
