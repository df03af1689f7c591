"""Starts the rollout of what the schedule published, where the settings name a plan for it.

What is due is a pure decision; starting goes the way an operator's `canary start` goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.deciding.rollout_plan_file import plan_named
from cluster.rollouts.deciding.rollout_record import Rollout
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.driving.rollout_runner import RolloutRunner
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.registry import open_registry
from recsys.errors import ConfigError, FleetError, RecsysError, RolloutConflict, StoreError
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from recsys.stores.control.training_schedule import ScheduleState, TrainingSchedule
from recsys.traffic import STABLE

log = logging.getLogger("cluster.rollouts.driving.scheduled_rollout")


def due_bundle(
    state: ScheduleState | None, stable_id: str, rollouts: Iterable[Rollout]
) -> str | None:
    """The bundle to roll out now: the schedule's newest, and only over an older one.

    Args:
        rollouts: all there ever were. A bundle that was rolled out or replaced is not tried
            again, and none is tried that was published before the latest rollout began.
    """
    if state is None or state.result != "published" or state.detail == stable_id:
        return None
    is_late = any(
        state.detail in (rollout.bundle_id, rollout.stable_id)
        or rollout.started_ms > state.ended_ms
        for rollout in rollouts
    )
    return None if is_late else state.detail


class ScheduledRollouts:
    """Looks whether a rollout is due, and starts it.

    Args:
        read: the schedule's memory.
        stable: the stable bundle; None without one.
        rollouts: all there ever were.
        start: starts the rollout of a bundle.
    """

    def __init__(
        self,
        read: Callable[[], ScheduleState | None],
        stable: Callable[[], str | None],
        rollouts: Callable[[], Iterable[Rollout]],
        start: Callable[[str], object],
    ) -> None:
        self._read = read
        self._stable = stable
        self._rollouts = rollouts
        self._start = start
        self._refused = ""
        self._waits_for = ""

    def begin(self) -> bool:
        """Start what is due; whether a rollout began. A bundle that is refused is named once.

        A fleet that is not there yet refuses nothing: the next look asks again.

        Raises:
            StoreError: the control store is away.
        """
        state = self._read()
        if state is None or state.result != "published" or state.detail == self._refused:
            return False  # without asking for all rollouts there ever were
        stable_id = self._stable()
        if stable_id is None:
            return False
        bundle_id = due_bundle(state, stable_id, self._rollouts())
        if bundle_id is None:
            self._refused = state.detail
            return False
        try:
            self._start(bundle_id)
        except (RolloutConflict, StoreError):
            raise
        except FleetError as error:
            if str(error) != self._waits_for:
                log.warning("bundle %s of the schedule waits for its rollout: %s", bundle_id, error)
            self._waits_for = str(error)
            return False
        except (RecsysError, OSError) as error:
            log.warning("bundle %s of the schedule gets no rollout: %s", bundle_id, error)
            self._refused = bundle_id
            return False
        self._waits_for = ""
        return True


def scheduled_plan(settings: Settings) -> RolloutPlan | None:
    """The plan of `schedule.rollout`; None where the schedule's bundles are not rolled out.

    Raises:
        ConfigError: the plan cannot be used, or no evidence decides it.
    """
    name = settings.schedule.rollout
    if not name:
        return None
    plan = plan_named(name)
    if not plan.steps:
        raise ConfigError(
            f"schedule.rollout = '{name}' has no steps, expected a plan that evidence decides; "
            "use fast, standard, careful or the path of a TOML file"
        )
    return plan


def scheduled_rollouts(
    settings: Settings, writer: ControlWriter, reader: ControlReader, operator: Operator
) -> Callable[[], bool]:
    """What a controller calls while there is no rollout.

    A plan that cannot be used is said and not followed: other rollouts are driven all the same.
    """
    try:
        plan = scheduled_plan(settings)
    except ConfigError as error:
        said = "schedule.rollout is not followed, nothing is rolled out by itself: %s"
        log.log(logging.ERROR, said, error)
        return lambda: False
    if plan is None:
        return lambda: False
    runner = RolloutRunner(settings, open_registry(settings), writer, operator)
    schedule = TrainingSchedule(settings.control_url)
    return ScheduledRollouts(
        schedule.read,
        lambda: reader.view().aliases.get(STABLE),
        lambda: (stored.rollout for stored in writer.rollouts()),
        lambda bundle_id: runner.start(bundle_id, plan),
    ).begin
