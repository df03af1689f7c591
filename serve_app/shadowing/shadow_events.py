"""What is recorded of one copied request: both answers side by side. Pure."""

from __future__ import annotations

import math

from recsys.errors import DeadlineExceeded
from recsys.events import ShadowAnswer
from serve_app.asks import Answer
from serve_app.http.problems import reason_of, status_of
from serve_app.shadowing.copy_rules import Copy
from serve_app.stages.explaining import EXPLAIN


class NotFinite(ValueError):
    """A shadow's answer has a number that no record can hold."""


def shadow_event(
    copy: Copy, outcome: Answer | Exception, elapsed_ms: float, event_id: str
) -> ShadowAnswer:
    """The event of a copy that was answered or failed as a user's request would have.

    Args:
        elapsed_ms: how long it took, where there is no answer that says so.
    """
    live = copy.live
    checked = _checked(outcome)
    error = checked if isinstance(checked, Exception) else None
    answer = None if isinstance(checked, Exception) else checked
    return ShadowAnswer(
        event_id=event_id,
        request_id=live.ask.request_id,
        user_id=live.ask.request.user_id,
        timestamp_ms=live.ask.received_at_ms,
        shadow_id=copy.plan.shadow_id,
        bundle_id=copy.plan.bundle_id,
        live_bundle_id=live.bundle_id,
        status=200 if error is None else int(status_of(error)),
        reason="" if error is None else _reason(error),
        live_items=tuple(live.shown.item_ids),
        items=tuple(answer.shown.item_ids) if answer else (),
        propensities=tuple(answer.propensities) if answer else (),
        live_ms=pipeline_ms(live),
        shadow_ms=pipeline_ms(answer) if answer else round(elapsed_ms, 3),
        degraded=answer.degraded if answer else (),
    )


def pipeline_ms(answer: Answer) -> float:
    """Time of an answer's micro-batch in the pipeline, without the wait for it or explaining."""
    return round(sum(ms for stage, ms in answer.stage_ms.items() if stage != EXPLAIN), 3)


def _checked(outcome: Answer | Exception) -> Answer | Exception:
    if isinstance(outcome, Exception):
        return outcome
    numbers = (*outcome.propensities, *outcome.shown.scores)
    if all(math.isfinite(number) for number in numbers):
        return outcome
    return NotFinite("the shadow's answer has a number that is not finite")


def _reason(error: Exception) -> str:
    if isinstance(error, NotFinite):
        return "not finite"
    return "deadline" if isinstance(error, DeadlineExceeded) else reason_of(error)
