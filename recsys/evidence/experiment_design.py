"""What an experiment declared before its first user: its sides, its metric, what decides it. Pure.

Written by `cluster.experiments` into the experiment's record and read by whoever reports on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from recsys.errors import ConfigError
from recsys.evidence.metric_rules import METRICS, MetricRule, Role, Shape
from recsys.experiment_plan import CONTROL, ExperimentPlan, plan_from_json, plan_to_json

TREATMENT, RETRIEVER, SCORER, BOTH = "treatment", "retriever", "scorer", "both"
FACTORIAL_ARMS = (CONTROL, RETRIEVER, SCORER, BOTH)
"""The sides of a 2 x 2: stable; the treatment's retriever alone; its scorer alone; all of it."""
PRIMARY_METRICS = tuple(
    name for name, rule in METRICS.items() if rule.shape in (Shape.RATIO, Shape.MEAN)
)
"""Metrics over users, which is what a side of an experiment is drawn of."""


@dataclass(frozen=True, slots=True)
class ExperimentDesign:
    """One experiment as it was declared, with the time it has run."""

    plan: ExperimentPlan
    metric: str
    """The primary metric, of `PRIMARY_METRICS`: it alone makes the verdict."""
    margin: float
    """Loss that is allowed, relative to control; 0 asks for a gain that is shown."""
    alpha: float
    """Chance of a wrong verdict at any look, over all treatments together."""
    label_window_ms: int
    """How long a slate may be engaged with before it is counted."""
    planned_n: int | None = None
    """Users per side that it was planned for; None where nothing was known to plan with."""
    from_ms: int = 0
    """Slates shown from then on are of the experiment."""
    until_ms: int | None = None
    """And before this moment, where it was stopped."""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError(f"experiment '{self.plan.experiment_id}': {'; '.join(problems)}")

    @property
    def rule(self) -> MetricRule:
        """The primary metric with the declared margin."""
        return replace(METRICS[self.metric], role=Role.CRITICAL, margin=self.margin)

    @property
    def treatments(self) -> tuple[str, ...]:
        """The sides that are compared with control."""
        return tuple(arm.name for arm in self.plan.arms if arm.name != CONTROL)

    @property
    def is_factorial(self) -> bool:
        """Whether it is a 2 x 2 of retriever and scorer."""
        return {arm.name for arm in self.plan.arms} == set(FACTORIAL_ARMS)

    @property
    def window_text(self) -> str:
        """The label window as a person reads it."""
        seconds = self.label_window_ms / 1000
        return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "plan": plan_to_json(self.plan),
            "metric": self.metric,
            "margin": self.margin,
            "alpha": self.alpha,
            "label_window_ms": self.label_window_ms,
            "planned_n": self.planned_n,
            "from_ms": self.from_ms,
            "until_ms": self.until_ms,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str) -> ExperimentDesign:
        """The design of a JSON object, or of its text.

        Raises:
            ConfigError: it is none.
        """
        try:
            fields = json.loads(document) if isinstance(document, str) else document
            planned, until = fields["planned_n"], fields["until_ms"]
            return cls(
                plan_from_json(fields["plan"]),
                str(fields["metric"]),
                float(fields["margin"]),
                float(fields["alpha"]),
                int(fields["label_window_ms"]),
                None if planned is None else int(planned),
                int(fields["from_ms"]),
                None if until is None else int(until),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"experiment design {document!r} cannot be read ({error!r}); expected plan, "
                "metric, margin, alpha, label window and times; start the experiment again"
            ) from error


def _problems(design: ExperimentDesign) -> list[str]:
    problems = []
    if design.metric not in PRIMARY_METRICS:
        problems.append(
            f"primary metric '{design.metric}' is none, expected {', '.join(PRIMARY_METRICS)}"
        )
    if not 0.0 <= design.margin < 1.0:
        problems.append(f"margin {design.margin} is not within [0, 1)")
    if not 0.0 < design.alpha < 1.0:
        problems.append(f"alpha {design.alpha} is not within (0, 1)")
    if design.label_window_ms < 0:
        problems.append(f"label window {design.label_window_ms} ms is below 0")
    if not any(arm.name == CONTROL for arm in design.plan.arms):
        problems.append(f"no arm is named {CONTROL}, expected one to compare with")
    return problems
