"""Which bundle answers a user and what the slate is credited to: experiments first, then the plan.

Pure but for what it counts; who holds which bundle is `recommender`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from recsys.errors import ConfigError
from recsys.experiment_plan import (
    NO_EXPERIMENTS,
    ExperimentArm,
    ExperimentPlan,
    Experiments,
    Layer,
)
from recsys.ordering_overrides import NO_OVERRIDES, pack_overrides
from recsys.traffic import TrafficPlan
from serve_app.residents.residency import stable_arm
from serve_app.telemetry import Telemetry

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class AssignedArm:
    """How one user is answered."""

    variant: str
    """`stable`, `canary`, `baseline`, or the side of an experiment of bundles."""
    bundle_id: str
    experiment: str | None = None
    """The rollout or the experiment of bundles; None where neither."""
    bundle_side: str = ""
    """`EXPERIMENT_ID:ARM` of the bundle layer, empty where none."""
    ordering_side: str = ""
    """The same of the ordering layer."""
    overrides: bytes = NO_OVERRIDES
    """Ordering settings put over the bundle's own."""

    @property
    def experiments(self) -> tuple[str, ...]:
        """The sides its slates are credited to, by layer."""
        return tuple(side for side in (self.bundle_side, self.ordering_side) if side)


def stable_instead(plan: TrafficPlan, arm: AssignedArm) -> AssignedArm:
    """Stable in the place of an arm whose bundle is missing: credited to no bundle's experiment.

    An experiment of the ordering goes on, because it changes whichever bundle answers.
    """
    stable = stable_arm(plan)
    return replace(
        arm, variant=stable.variant, bundle_id=stable.bundle_id, experiment=None, bundle_side=""
    )


class Assigner:
    """Assigns users; remembers which overrides of the running experiments can be read."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._experiments = NO_EXPERIMENTS
        self._overrides: dict[tuple[str, str], bytes | None] = {}
        """By experiment and arm; None where they cannot be read."""
        self._told: set[str] = set()

    def assign(self, plan: TrafficPlan, experiments: Experiments, user_id: str) -> AssignedArm:
        """The user's arm: that of an experiment of bundles, else that of the plan."""
        parts = experiments.of_user(user_id) if experiments.plans else ()
        if not parts:
            return _planned(plan, user_id)
        if experiments is not self._experiments:
            self._read(experiments)
        found: AssignedArm | None = None
        ordering_side, overrides = "", NO_OVERRIDES
        for part, arm in parts:
            side = f"{part.experiment_id}:{arm.name}"
            if part.layer is Layer.BUNDLE:
                found = AssignedArm(arm.name, arm.bundle_id, part.experiment_id, side)
            elif (readable := self._overrides_of(part, arm)) is not None:
                ordering_side, overrides = side, readable
        if found is None:
            found = _planned(plan, user_id)
        if not ordering_side:
            return found
        return replace(found, ordering_side=ordering_side, overrides=overrides)

    def _overrides_of(self, plan: ExperimentPlan, arm: ExperimentArm) -> bytes | None:
        """What an arm puts over the ordering; None where this release cannot tell."""
        overrides = self._overrides[plan.experiment_id, arm.name]
        if overrides is None:
            self._telemetry.count("flywheel_ignored_experiments", experiment=plan.experiment_id)
        return overrides

    def _read(self, experiments: Experiments) -> None:
        """Read the overrides of all arms once; an experiment with a bad one has none at all.

        Its other sides would otherwise be compared with users who are not counted.
        """
        self._overrides = {}
        for plan in experiments.plans:
            try:
                texts = {arm.name: pack_overrides(arm.ordering) for arm in plan.arms}
            except ConfigError as error:
                texts = {}
                if plan.experiment_id not in self._told:
                    self._told.add(plan.experiment_id)
                    logger.warning("experiment %s is ignored: %s", plan.experiment_id, error)
            for arm in plan.arms:
                self._overrides[plan.experiment_id, arm.name] = texts.get(arm.name)
        self._experiments = experiments


def _planned(plan: TrafficPlan, user_id: str) -> AssignedArm:
    arm = plan.assign(user_id)
    return AssignedArm(arm.variant, arm.bundle_id, plan.experiment_of(arm.variant))
