"""An experiment as it is recorded, from its declaration to its end. Touches no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from recsys.evidence.experiment_design import ExperimentDesign
from recsys.experiment_plan import (
    ExperimentArm,
    ExperimentPlan,
    Layer,
    plan_from_json,
    plan_to_json,
)


class ExperimentState(StrEnum):
    """Where an experiment stands."""

    PREPARING = "preparing"
    """Replicas load its bundles; no user is in it."""
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What decides it, said before its first user."""

    metric: str = "ctr"
    margin: float = 0.02
    alpha: float = 0.05
    planned_n: int | None = None
    """Users per arm; None where nothing was known to plan with."""
    label_window_s: int = 86_400
    hypothesis: str = ""


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """One experiment."""

    experiment_id: str
    """Its name and when it was started; the salt of its users."""
    name: str
    layer: Layer
    arms: tuple[ExperimentArm, ...]
    share: float
    """Of the layer's users, 0-1."""
    who: str
    started_ms: int
    declared: Declaration
    begin: float = 0.0
    state: ExperimentState = ExperimentState.PREPARING
    ran_from_ms: int | None = None
    stopped_ms: int | None = None
    why: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, by which the same command is known again."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.experiment_id

    @property
    def title(self) -> str:
        """What the history calls it."""
        return self.experiment_id

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self.state is ExperimentState.STOPPED

    @property
    def bundle_ids(self) -> tuple[str, ...]:
        """What its arms are answered by, each once; none in the ordering layer."""
        return tuple(dict.fromkeys(arm.bundle_id for arm in self.arms if arm.bundle_id))

    @property
    def plan(self) -> ExperimentPlan:
        """What gateways follow."""
        return ExperimentPlan(self.experiment_id, self.layer, self.begin, self.share, self.arms)

    def design(self) -> ExperimentDesign:
        """What a report is made by."""
        declared = self.declared
        return ExperimentDesign(
            self.plan,
            declared.metric,
            declared.margin,
            declared.alpha,
            declared.label_window_s * 1000,
            declared.planned_n,
            self.started_ms if self.ran_from_ms is None else self.ran_from_ms,
            self.stopped_ms,
        )

    def running(self, now_ms: int) -> ExperimentRecord:
        """The record from the first user on."""
        return replace(self, state=ExperimentState.RUNNING, ran_from_ms=now_ms)

    def stopped(self, now_ms: int, why: str) -> ExperimentRecord:
        """The record once it is over."""
        return replace(self, state=ExperimentState.STOPPED, stopped_ms=now_ms, why=why)

    def plan_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return plan_to_json(self.plan)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "experiment_id": self.experiment_id,
            "name": self.name,
            "state": str(self.state),
            "plan": self.plan_json(),
            "who": self.who,
            "started_ms": self.started_ms,
            "ran_from_ms": self.ran_from_ms,
            "stopped_ms": self.stopped_ms,
            "why": self.why,
            "declared": asdict(self.declared),
            "asked": dict(self.asked),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ExperimentRecord:
        """The record of a JSON object.

        Raises:
            ConfigError, KeyError, TypeError, ValueError: it is none.
        """
        plan = plan_from_json(document["plan"])
        return cls(
            experiment_id=str(document["experiment_id"]),
            name=str(document["name"]),
            layer=plan.layer,
            arms=plan.arms,
            share=plan.share,
            who=str(document["who"]),
            started_ms=int(document["started_ms"]),
            declared=Declaration(**document["declared"]),
            begin=plan.begin,
            state=ExperimentState(document["state"]),
            ran_from_ms=document["ran_from_ms"],
            stopped_ms=document["stopped_ms"],
            why=str(document["why"]),
            asked=document["asked"],
        )


def experiment_id(name: str, now_ms: int) -> str:
    """The id of an experiment of this name that begins now."""
    return f"{name}-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%d-%H%M%S}"
