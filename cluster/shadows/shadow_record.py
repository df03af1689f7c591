"""A shadow as it is recorded: which bundle, whose, in which state. Pure; touches no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from recsys.shadow_plan import ShadowPlan


class ShadowState(StrEnum):
    """How far a shadow has come."""

    PREPARING = "preparing"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ShadowRecord:
    """One attempt to see what a bundle would answer."""

    shadow_id: str
    bundle_id: str
    share: float
    """Of all requests, above 0 up to 1."""
    state: ShadowState
    who: str
    started_ms: int
    stopped_ms: int | None = None
    why: str = ""
    """Why it was stopped."""
    rollout_id: str | None = None
    """The rollout that began it, whose id it then has; None if an operator did."""

    def __post_init__(self) -> None:
        ShadowPlan(self.shadow_id, self.bundle_id, self.share)

    @property
    def key(self) -> str:
        """Its id."""
        return self.shadow_id

    @property
    def title(self) -> str:
        """What the history calls it."""
        return f"{self.shadow_id}: {self.bundle_id}"

    @property
    def bundle_ids(self) -> tuple[str, ...]:
        """What every replica holds until it is closed."""
        return (self.bundle_id,)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, which is for ever."""
        return self.state is ShadowState.STOPPED

    @property
    def plan(self) -> ShadowPlan:
        """What gateways follow while it runs."""
        return ShadowPlan(self.shadow_id, self.bundle_id, self.share)

    def running(self) -> ShadowRecord:
        """The same, getting copies from now on."""
        return replace(self, state=ShadowState.RUNNING)

    def stopped(self, now_ms: int, why: str) -> ShadowRecord:
        """The same, ended."""
        return replace(self, state=ShadowState.STOPPED, stopped_ms=now_ms, why=why)

    def plan_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return self.plan.to_json()

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ShadowRecord:
        """The record of a JSON object.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return cls(**{**document, "state": ShadowState(document["state"])})
