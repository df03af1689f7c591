"""The record of a rollout, what is seen of the fleet, and the actions: plain frozen values.

How a record moves on is `rollout`; its only writer is `control_writer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from cluster.rollouts.deciding.rollout_plan import PlanStep, RolloutPlan
from recsys.errors import StoreError
from recsys.evidence.comparison import Verdict as Verdict
from recsys.traffic import TrafficPlan


class Phase(StrEnum):
    """Where a rollout stands."""

    STARTING = "starting"
    PREPARING = "preparing"
    CANARY = "canary"
    PAUSED = "paused"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ABORTED = "aborted"


class Shadowing(StrEnum):
    """Where the shadow comparison of a rollout that prepares stands."""

    NONE = "none"
    RUNNING = "running"
    OVER = "over"


class Reason(StrEnum):
    """Why it stands there, for programs; the message is the same for people."""

    REQUESTED = "requested"
    LOADING = "loading"
    READY = "ready"
    NO_DATA = "no_data"
    UNDECIDED = "undecided"
    """There is evidence, and it does not decide."""
    STEP_TIME = "step_time"
    """It passes, and the step's shortest time is not over."""
    PASSED = "passed"
    SKIPPED = "skipped"
    """An operator went on to the next step without a verdict."""
    FORCED = "forced"
    """An operator promoted it without a verdict."""
    FOLLOWED = "followed"
    OPERATOR = "operator"
    REFUSED = "bundle_refused"
    EVIDENCE = "evidence"
    LATE = "not_in_time"
    HALTED = "halted"


class Health(StrEnum):
    """What the fleet says of one bundle."""

    READY = "ready"
    LOADING = "loading"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BundleHealth:
    """The fleet's word on one bundle, with the reason."""

    health: Health
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen in one turn."""

    now_ms: int
    plan_epoch: int
    """Epoch of the plan in the control store; 0 without one."""
    candidate: BundleHealth
    stable: BundleHealth
    followed_epoch: int | None
    """Lowest plan epoch among the gateways; None while not all that are expected report."""
    evidence_problem: str = ""
    """Why the evidence could not be read; empty where it could."""
    shadow: Mapping[str, Any] | None = None
    """What its shadow's answers came to (`shadow_sums_to_json`); None where unread."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to replace the stable bundle, as it is recorded."""

    rollout_id: str
    bundle_id: str
    stable_id: str
    """The stable bundle when it started, where an abort leads back to."""
    plan_name: str
    steps: tuple[float, ...]
    """Traffic shares of the canary, 0-0.5, one per step; none for a plan that promotes at once."""
    resident_before: tuple[str, ...]
    """Bundles required when it started."""
    resident_after: tuple[str, ...]
    """Bundles required once it is promoted, this one first."""
    started_ms: int
    ready_timeout_ms: int
    since_ms: int
    """When the present phase, step or shadow comparison began."""
    is_undo: bool = False
    phase: Phase = Phase.STARTING
    step: int = 0
    epoch: int = 0
    """Epoch of the traffic plan that belongs to this phase and step."""
    reason: Reason = Reason.REQUESTED
    message: str = "rollout requested"
    is_settled: bool = True
    """Whether the actions of this phase and step are known to be done."""
    plan: RolloutPlan | None = None
    """The plan as it was when the rollout started; None in records of before there were any."""
    opened_ms: int | None = None
    """When the canary got its first user."""
    judgement: Mapping[str, Any] | None = None
    """The latest `Judgement`, as JSON."""
    shadow: Shadowing = Shadowing.NONE
    shadow_judgement: Mapping[str, Any] | None = None
    """The latest `ShadowJudgement`, as JSON."""
    halted_by: Reason | None = None
    """Why it was to go back when it halted; None where it is not halted."""
    halted_for: str = ""
    """The same for people."""

    @property
    def present_step(self) -> PlanStep | None:
        """The plan's step it stands at; None before, after, and without a plan."""
        steps = () if self.plan is None else self.plan.steps
        return steps[self.step] if self.step < len(steps) else None

    @property
    def is_finished(self) -> bool:
        """Whether its outcome is decided."""
        return self.phase in {Phase.PROMOTED, Phase.ABORTED}

    @property
    def is_closed(self) -> bool:
        """Whether it is finished and the fleet was told; only then may the next one start."""
        return self.is_finished and self.is_settled

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Rollout:
        """The record of a JSON object.

        Raises:
            StoreError: it is no rollout record.
        """
        try:
            return msgspec.convert(dict(document), cls)
        except msgspec.ValidationError as error:
            raise StoreError(
                f"a rollout record cannot be read: {error}; "
                "use the release that started the rollout to abort it"
            ) from error


@dataclass(frozen=True, slots=True)
class Require:
    """Every replica shall hold these bundles."""

    bundle_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetPlan:
    """This traffic plan shall be in force."""

    plan: TrafficPlan


@dataclass(frozen=True, slots=True)
class SetAlias:
    """The alias shall name this bundle."""

    name: str
    bundle_id: str
    instead_of: str


@dataclass(frozen=True, slots=True)
class Release:
    """Once every living gateway follows the epoch, only these bundles stay required."""

    bundle_ids: tuple[str, ...]
    epoch: int


@dataclass(frozen=True, slots=True)
class SetShadow:
    """A share of the requests shall be copied to a bundle that answers nobody."""

    shadow_id: str
    bundle_id: str
    share: float
    started_ms: int


@dataclass(frozen=True, slots=True)
class ClearShadow:
    """This shadow shall be over, whether or not it began."""

    shadow: SetShadow
    why: str


Action: TypeAlias = Require | SetPlan | SetAlias | Release | SetShadow | ClearShadow


def earlier_stables(rollouts: Iterable[Rollout], stable_id: str) -> tuple[str, ...]:
    """Bundles that were stable before this one, the latest first, without those undone.

    Args:
        rollouts: all of them, oldest first.
    """
    line: list[str] = []
    for rollout in rollouts:
        if rollout.phase is not Phase.PROMOTED:
            continue
        line = line or [rollout.stable_id]
        if rollout.is_undo and rollout.bundle_id in line:
            line = line[: line.index(rollout.bundle_id) + 1]
        else:
            line = [bundle_id for bundle_id in line if bundle_id != rollout.bundle_id]
            line.append(rollout.bundle_id)
    if stable_id in line:
        line = line[: line.index(stable_id)]
    return tuple(reversed(line))
