"""Reports whom the door refused, together: a flood of refusals is no flood of records."""

from __future__ import annotations

from collections.abc import Callable

from recsys.errors import Overloaded
from recsys.events import Outcome
from serve_app.assignment import AssignedArm
from serve_app.door.admission import Admission, Lane
from serve_app.door.front_door import RECOMMEND_PATH
from serve_app.http.problems import reason_of
from serve_app.telemetry import Telemetry

SHED = "flywheel_shed"
MOST_OUTCOMES = 16
"""Records of one report."""
_ROUTES = {Lane.SLATE: RECOMMEND_PATH, Lane.OTHER: "other", Lane.HEALTH: "other"}
_REFUSED = 503


def shares_of(n: int, most: int) -> list[int]:
    """`n` as at most `most` whole parts that differ by 1 at most."""
    n_parts = min(n, most)
    return [n // n_parts + (part < n % n_parts) for part in range(n_parts)]


def report_refused(
    admission: Admission,
    telemetry: Telemetry,
    assign: Callable[[str], AssignedArm],
    now_ms: int,
    new_id: Callable[[], str],
) -> list[Outcome]:
    """Count the refused since the last report, and make the outcomes that stand for them.

    The door reads nothing that names a user, so whom it refuses does not depend on the arm: each
    outcome takes the arm of a made-up user, which is each arm as often as its users come.
    """
    n_slates = 0
    for (lane, reason), n in admission.take_refused().items():
        telemetry.count(SHED, n, reason=reason)
        telemetry.count("flywheel_requests", n, route=_ROUTES[lane], status=str(_REFUSED))
        n_slates += n if lane is Lane.SLATE else 0
    if n_slates == 0:
        return []
    try:
        return [
            _outcome(assign(new_id()), n, now_ms, new_id)
            for n in shares_of(n_slates, MOST_OUTCOMES)
        ]
    except Overloaded:
        # Without a plan there is no arm to hold it against.
        return []


def _outcome(arm: AssignedArm, n: int, now_ms: int, new_id: Callable[[], str]) -> Outcome:
    return Outcome(
        event_id=new_id(),
        request_id="",
        user_id="",
        timestamp_ms=now_ms,
        bundle_id=arm.bundle_id,
        variant=arm.variant,
        status=_REFUSED,
        reason=reason_of(Overloaded("")),
        latency_ms=0.0,
        experiment=arm.experiment,
        n_requests=n,
    )
