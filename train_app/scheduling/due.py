"""When the next training is due: a pure decision over clock, memory and settings.

Clocks jump: a time that lies ahead is taken for now (`steady`), and however far the clock went
forward one training is due, not all that were missed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from recsys.learning_settings import ScheduleSettings
from recsys.stores.control.training_schedule import ScheduleState, TrainingResult

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What is true now."""

    n_engagements: int
    """Engagements in the lake."""
    is_training: bool = False
    """Whether somebody trains on this data directory."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and if that is to wait, for what."""

    action: Literal["train", "check_drift", "wait"]
    reason: str = ""
    next_ms: int = 0
    """When a training may begin; 0 where no clock says it."""


def steady(now_ms: int, state: ScheduleState) -> ScheduleState:
    """The state with no time in the future: after the clock was set back, waiting begins anew."""
    if max(state.since_ms, state.started_ms, state.ended_ms, state.drift_checked_ms) <= now_ms:
        return state
    # A training that runs stays one: it ends after it began.
    latest_ms = now_ms - 1 if state.is_training else now_ms
    return replace(
        state,
        since_ms=min(state.since_ms, now_ms),
        started_ms=min(state.started_ms, now_ms),
        ended_ms=min(state.ended_ms, latest_ms),
        drift_checked_ms=min(state.drift_checked_ms, now_ms),
    )


def due(now_ms: int, state: ScheduleState, seen: Seen, settings: ScheduleSettings) -> Decision:
    """Whether a training begins now.

    Args:
        state: steady, of a schedule that has begun.
    """
    if settings.train == "off":
        return Decision("wait", "schedule.train is off")
    if seen.is_training or state.is_training:
        return Decision("wait", "a training runs")
    at_ms = earliest_ms(state, settings)
    if now_ms < at_ms:
        return Decision("wait", "its time", at_ms)
    if state.n_failures:
        # What was new then still is.
        return Decision("train", f"the last one {state.result}")
    n_new = max(seen.n_engagements - state.known_engagements, 0)
    if n_new < settings.min_new_engagements:
        wanted = settings.min_new_engagements
        return Decision("wait", f"{n_new:,} new engagements, {wanted:,} wanted")
    if settings.train == "on_drift":
        return _on_drift(now_ms, state, settings)
    return Decision("train", f"{n_new:,} new engagements")


def earliest_ms(state: ScheduleState, settings: ScheduleSettings) -> int:
    """When the clock lets the next training begin."""
    rest_ms = round(settings.rest_minutes * MINUTE_MS)
    if state.n_failures:
        patience_ms = max(rest_ms, MINUTE_MS) << min(state.n_failures - 1, 12)
        return state.ended_ms + min(patience_ms, DAY_MS)
    began_ms = state.started_ms or state.since_ms
    if settings.train == "hourly":
        return began_ms + HOUR_MS
    if settings.train == "daily":
        at_ms = began_ms // DAY_MS * DAY_MS + settings.at * HOUR_MS
        return at_ms if at_ms > began_ms else at_ms + DAY_MS
    return (state.ended_ms or state.since_ms) + rest_ms


def begun(now_ms: int, state: ScheduleState, seen: Seen) -> ScheduleState:
    """The state once a training has begun."""
    return replace(
        state,
        started_ms=now_ms,
        ended_ms=min(state.ended_ms, now_ms - 1),
        known_engagements=seen.n_engagements,
        drift=0.0,
        drift_checked_ms=0,
        waits_for="",
        next_ms=0,
    )


def ended(now_ms: int, state: ScheduleState, result: TrainingResult, detail: str) -> ScheduleState:
    """The state once it has ended; a refusal is an end like a bundle is."""
    is_done = result in ("published", "refused")
    return replace(
        state,
        ended_ms=max(now_ms, state.started_ms),
        result=result,
        detail=detail,
        n_failures=0 if is_done else state.n_failures + 1,
    )


def _on_drift(now_ms: int, state: ScheduleState, settings: ScheduleSettings) -> Decision:
    if state.drift_checked_ms and state.drift > settings.max_drift:
        return Decision("train", f"a feature has drifted by {state.drift:.2f}")
    again_ms = state.drift_checked_ms + round(settings.drift_check_minutes * MINUTE_MS)
    if state.drift_checked_ms and now_ms < again_ms:
        reason = f"drift {state.drift:.2f} is at most {settings.max_drift:g}"
        return Decision("wait", reason, again_ms)
    return Decision("check_drift")
