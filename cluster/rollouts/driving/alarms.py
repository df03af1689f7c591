"""Tells people when a rollout ended badly or waits for them: a log line, and a webhook if set.

Decides from records alone; the controller calls it, and is never held up or failed by it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cluster.rollouts.deciding.preparing import is_shadowing
from cluster.rollouts.deciding.rollout_plan import OnShadowTimeout, OnTimeout
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from recsys.settings import Settings

if TYPE_CHECKING:
    from cluster.rollouts.driving.controller import Moved

WEBHOOK_TIMEOUT_S = 3.0
"""To connect, to send and to be answered, each."""
RETRY_PAUSE_S = 1.0
MAX_UNDER_WAY = 8
"""Posts under way at once; what is more is only logged."""
_REFUSED = 400

log = logging.getLogger("cluster.rollouts.driving.alarms")
_under_way = threading.BoundedSemaphore(MAX_UNDER_WAY)


class AlarmKind(StrEnum):
    """What people are told of."""

    ABORTED = "aborted"
    HALTED = "halted"
    OVERDUE = "overdue"
    """A step is undecided for longer than its longest time, and holds."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing somebody should know."""

    kind: AlarmKind
    rollout_id: str
    bundle_id: str
    stable_id: str
    step: int
    """The step it stands or stood at, from 1; 0 without steps and before the first user."""
    reason: str
    message: str
    at_ms: int

    @property
    def text(self) -> str:
        """The alarm as a sentence."""
        what = "waits for a decision" if self.kind is AlarmKind.OVERDUE else f"is {self.kind}"
        return (
            f"rollout {self.rollout_id} of {self.bundle_id} over {self.stable_id} {what}: "
            f"{self.message}"
        )


def is_overdue(rollout: Rollout, now_ms: int) -> bool:
    """Whether the present step, or the shadow comparison, waits beyond its longest time.

    Where its plan says that it then goes on or aborts, nobody has to decide.
    """
    step = rollout.present_step
    if is_shadowing(rollout) and rollout.plan is not None:
        is_held = rollout.plan.on_shadow_timeout is OnShadowTimeout.HOLD
        return is_held and now_ms - rollout.since_ms > rollout.plan.shadow_max_s * 1000
    if rollout.phase is not Phase.CANARY or step is None or step.max_s is None:
        return False
    return step.on_timeout is OnTimeout.HOLD and now_ms - rollout.since_ms > step.max_s * 1000


def alarm_of(rollout: Rollout, now_ms: int) -> Alarm | None:
    """What people should be told of a rollout that stands so; None where all goes its way.

    An operator's own abort is no alarm.
    """
    if rollout.reason is Reason.HALTED:
        kind = AlarmKind.HALTED
    elif rollout.phase is Phase.ABORTED and rollout.reason is not Reason.OPERATOR:
        kind = AlarmKind.ABORTED
    elif is_overdue(rollout, now_ms):
        kind = AlarmKind.OVERDUE
    else:
        return None
    step = min(rollout.step + 1, len(rollout.steps)) if rollout.opened_ms is not None else 0
    return Alarm(
        kind,
        rollout.rollout_id,
        rollout.bundle_id,
        rollout.stable_id,
        step,
        str(rollout.reason),
        rollout.message,
        now_ms,
    )


class Alarms:
    """Raises each alarm of a rollout's step once; called after every recorded move.

    Args:
        clock: Unix time in milliseconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._clock = clock
        self._raised: set[tuple[str, int, AlarmKind]] = set()

    def tell(self, moved: Moved) -> None:
        """Look at where a rollout now stands; never raises, never waits."""
        self.look(moved.after)

    def look(self, rollout: Rollout) -> None:
        """Raise the alarm of where a rollout stands, unless it was raised."""
        alarm = alarm_of(rollout, self._clock())
        if alarm is None:
            return
        key = (alarm.rollout_id, alarm.step, alarm.kind)
        if key not in self._raised:
            self._raised = {old for old in self._raised if old[0] == alarm.rollout_id} | {key}
            raise_alarm(self._settings, alarm)


def raise_alarm(settings: Settings, alarm: Alarm) -> threading.Thread | None:
    """Log an alarm, and post it to `cluster.alarm_webhook_url` on a thread of its own.

    Returns:
        The thread that posts, which ends by itself within about 20 s; None where nothing is posted.
    """
    log.warning("%s", alarm.text)
    url = settings.cluster.alarm_webhook_url
    if not url:
        return None
    if not _under_way.acquire(blocking=False):
        log.error(
            "alarm of rollout %s was not posted: %d posts are under way; see the webhook's server",
            alarm.rollout_id,
            MAX_UNDER_WAY,
        )
        return None
    thread = threading.Thread(
        target=_post_and_release, args=(url, alarm), name="rollout-alarm", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        _under_way.release()
        log.exception("alarm of rollout %s was not posted", alarm.rollout_id)
        return None
    return thread


def _post_and_release(url: str, alarm: Alarm) -> None:
    try:
        problem = _post(url, alarm)
        if problem:
            threading.Event().wait(RETRY_PAUSE_S)
            problem = _post(url, alarm)
        if problem:
            log.error(
                "alarm of rollout %s was not posted: %s, after 2 attempts; expected an answer "
                "below 400 from cluster.alarm_webhook_url",
                alarm.rollout_id,
                problem,
            )
    finally:
        _under_way.release()


def _post(url: str, alarm: Alarm) -> str:
    """Post once; what went wrong, or an empty string. The address may hold a key: never shown."""
    import httpx

    body = json.dumps({"text": alarm.text, **asdict(alarm)})
    headers = {"content-type": "application/json"}
    try:
        # The status alone is read: a body that never ends would hold the thread.
        with httpx.stream(
            "POST", url, content=body, headers=headers, timeout=WEBHOOK_TIMEOUT_S
        ) as answer:
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return type(error).__name__
    return f"status {status}" if status >= _REFUSED else ""
