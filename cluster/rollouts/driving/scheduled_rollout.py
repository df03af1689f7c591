"""Starts the rollout of what the schedule published, where the settings name a plan for it.

What is due is a pure decision; starting goes the way an operator's `canary start` goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from cluster.rollouts.deciding.rollout_plan_file import plan_named
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.driving.rollout_runner import RolloutRunner
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.registry import Registry
from recsys.errors import ConfigError, RecsysError, RolloutConflict, StoreError
from recsys.settings import Settings
from recsys.stores.control import ControlReader
from recsys.stores.training_schedule import ScheduleState, TrainingSchedule
from recsys.traffic import STABLE

log = logging.getLogger("cluster.rollouts.driving.scheduled_rollout")


def due_bundle(state: ScheduleState | None, stable_id: str, tried: Iterable[str]) -> str | None:
    """The bundle to roll out now: the schedule's newest, unless it is stable or was tried before.

    Args:
        tried: bundles that ever had a rollout; one that was aborted is not tried twice.
    """
    if state is None or state.result != "published":
        return None
    bundle_id = state.detail
    return None if bundle_id == stable_id or bundle_id in set(tried) else bundle_id


class ScheduledRollouts:
    """Looks whether a rollout is due, and starts it.

    Args:
        read: the schedule's memory.
        stable: the stable bundle; None without one.
        tried: bundles that ever had a rollout.
        start: starts the rollout of a bundle.
    """

    def __init__(
        self,
        read: Callable[[], ScheduleState | None],
        stable: Callable[[], str | None],
        tried: Callable[[], Iterable[str]],
        start: Callable[[str], object],
    ) -> None:
        self._read = read
        self._stable = stable
        self._tried = tried
        self._start = start
        self._refused = ""

    def begin(self) -> bool:
        """Start what is due; whether a rollout began. A bundle that is refused is named once.

        Raises:
            StoreError: the control store is away.
        """
        state = self._read()
        if state is None or state.result != "published" or state.detail == self._refused:
            return False  # without asking for all rollouts there ever were
        stable_id = self._stable()
        if stable_id is None:
            return False
        bundle_id = due_bundle(state, stable_id, self._tried())
        if bundle_id is None:
            self._refused = state.detail
            return False
        try:
            self._start(bundle_id)
        except (RolloutConflict, StoreError):
            raise
        except RecsysError as error:
            log.warning("bundle %s of the schedule gets no rollout: %s", bundle_id, error)
            self._refused = bundle_id
            return False
        return True


def scheduled_rollouts(
    settings: Settings, writer: ControlWriter, reader: ControlReader, operator: Operator
) -> Callable[[], bool]:
    """What a controller calls while there is no rollout.

    Raises:
        ConfigError: the plan of `schedule.rollout` cannot be used.
    """
    name = settings.schedule.rollout
    if not name:
        return lambda: False
    plan = plan_named(name)
    if not plan.steps:
        raise ConfigError(
            f"schedule.rollout = '{name}' has no steps, expected a plan that evidence decides; "
            "use fast, standard, careful or the path of a TOML file"
        )
    runner = RolloutRunner(settings, Registry(settings.registry_location), writer, operator)
    schedule = TrainingSchedule(settings.control_url)
    return ScheduledRollouts(
        schedule.read,
        lambda: reader.view().aliases.get(STABLE),
        lambda: (stored.rollout.bundle_id for stored in writer.rollouts()),
        lambda bundle_id: runner.start(bundle_id, plan),
    ).begin
