"""Which copies of requests a loaded gateway gives up, and what a copy asks. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from recsys.shadow_plan import ShadowPlan
from serve_app.asks import Answer, Ask

VARIANT = "shadow"
SLOW_SHARE = 0.25
"""Of a request's deadline: where live answers take longer, copies are given up."""
_RECENT = 0.1
"""Weight of one live answer in the running mean of how long they take."""


class Dropped(StrEnum):
    """Why a copy was not answered; it is counted and leaves no event."""

    LIVE_WAITS = "live waits"
    LIVE_FULL = "live full"
    LIVE_SLOW = "live slow"
    LIVE_DEGRADED = "live degraded"
    """Beside half an answer a whole one would only look different."""
    QUEUE_FULL = "queue full"
    LOG_FULL = "log full"
    LATE = "late"
    """It waited longer than a shadow may take to answer."""
    NOT_RESIDENT = "not resident"
    MISSED = "missed"
    """A stage had let the bundle go, or not yet loaded it: that says nothing of its answers."""
    ENDED = "ended"
    """The shadow ended, or its bundle became the live one's, while the copy waited."""
    STOPPED = "stopped"
    FAULT = "fault"
    """Copying itself failed."""


@dataclass(frozen=True, slots=True)
class LiveLoad:
    """How busy a gateway is with requests of users."""

    n_waiting: int
    """Requests for which no micro-batch is free."""
    is_full: bool
    """Whether a bundle has as many micro-batches under way as it may."""
    is_answering: bool = False
    """Whether anything of a user's is under way."""


def recent_ms(before_ms: float, answer_ms: float) -> float:
    """The running mean of how long live answers take, with one more."""
    return before_ms + _RECENT * (answer_ms - before_ms)


def why_crowded_out(
    load: LiveLoad, *, live_ms: float, deadline_ms: float, has_log_room: bool
) -> Dropped | None:
    """Why no copy may be made now: users come first, at any time of a copy's life.

    Args:
        live_ms: how long live answers took recently.
        deadline_ms: how long they may take.
    """
    if load.n_waiting:
        return Dropped.LIVE_WAITS
    if load.is_full:
        return Dropped.LIVE_FULL
    if live_ms > SLOW_SHARE * deadline_ms:
        return Dropped.LIVE_SLOW
    return None if has_log_room else Dropped.LOG_FULL


def is_comparable(answer: Answer, assigned_bundle_id: str, plan: ShadowPlan) -> bool:
    """Whether a shadow's answer beside this one would say anything.

    Not where the live answer is a fallback or comes from the shadow's own bundle.
    """
    return answer.bundle_id == assigned_bundle_id != plan.bundle_id


@dataclass(frozen=True, slots=True)
class Copy:
    """A request to be answered again, with what the user got."""

    plan: ShadowPlan
    live: Answer
    offered_s: float
    """On the monotonic clock."""

    @property
    def key(self) -> tuple[ShadowPlan, bytes]:
        """What copies of one batch share."""
        return self.plan, self.live.ask.overrides


def shadow_ask(copy: Copy, expires_at_s: float) -> Ask:
    """The same ask, with draws of its own: its seed comes of the shadow's id and the request's."""
    live = copy.live.ask
    return replace(
        live,
        request=replace(live.request, explain=False),
        request_id=f"{copy.plan.shadow_id}\0{live.request_id}",
        variant=VARIANT,
        experiment=None,
        experiments=(),
        expires_at_s=expires_at_s,
    )
