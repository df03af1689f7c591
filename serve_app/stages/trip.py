"""One batch on its way through the stages: its time, and what it found out about failures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from serve_app.stages.ladder import Rung
from serve_app.stages.placement import StageFailure


@dataclass(slots=True)
class Trip:
    """One batch under way.

    Args:
        rung: what is left out of its answers.
    """

    expires_at_s: float
    stage_timeout_s: float
    rung: Rung
    started_s: float = field(default_factory=time.monotonic)
    stage_ms: dict[str, float] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)

    def timeout_s(self) -> float:
        """Of the next stage call."""
        return min(self.stage_timeout_s, self.expires_at_s - time.monotonic())

    def done(self, stage: str) -> None:
        """Note how long a stage took."""
        now_s = time.monotonic()
        self.stage_ms[stage] = round((now_s - self.started_s) * 1000, 3)
        self.started_s = now_s

    def failed(self, *failures: StageFailure | None) -> None:
        """Name what was left out."""
        self.degraded.extend(str(failure) for failure in failures if failure is not None)
