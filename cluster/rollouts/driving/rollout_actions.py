"""The thin shell under a rollout: what is seen of the fleet, and each action carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.rollouts.deciding.observation import (
    bundle_health,
    expected_replicas,
    followed_epoch,
    gateway_epochs,
)
from cluster.rollouts.deciding.rollout import actions_of
from cluster.rollouts.deciding.rollout_record import (
    Action,
    Observation,
    Release,
    Require,
    Rollout,
    SetAlias,
    SetPlan,
)
from cluster.rollouts.storing.control_writer import ControlWriter, Fence
from recsys.errors import FleetError
from recsys.settings import Settings
from recsys.stores.control import ControlReader

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
    """The running fleet as the control store shows it, and the levers a rollout may pull."""

    def __init__(
        self, settings: Settings, writer: ControlWriter, reader: ControlReader, operator: Operator
    ) -> None:
        self._settings = settings
        self._expected = expected_replicas(settings)
        self._writer = writer
        self._reader = reader
        self._operator = operator

    def observe(self, rollout: Rollout, totals: Mapping[str, Any] | None = None) -> Observation:
        """What one turn of the rollout decides on.

        Args:
            totals: what is counted without a rollout's name (`evidence_source`), if it was read.
        """
        rows = self._reader.readiness()
        plan = self._reader.view().plan
        now_ms = self._operator.clock()
        return Observation(
            now_ms=now_ms,
            plan_epoch=0 if plan is None else plan.epoch,
            candidate=bundle_health(rows, self._expected, rollout.bundle_id, now_ms),
            stable=bundle_health(rows, self._expected, rollout.stable_id, now_ms),
            followed_epoch=followed_epoch(rows, self._expected, now_ms),
            totals=totals,
        )

    def is_alive(self) -> bool:
        """Whether any gateway reported lately."""
        return bool(gateway_epochs(self._reader.readiness(), self._operator.clock()))

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
        epochs = gateway_epochs(self._reader.readiness(), self._operator.clock())
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
                epochs = gateway_epochs(self._reader.readiness(), self._operator.clock())
                if epochs and epochs[0] < epoch:
                    return False
                self._writer.set_required(bundle_ids, view.required, fence=fence)
        return True
