"""Where a request is let in or refused: by its head alone, before anything is read or scheduled.

`ingress_middleware` stands here in front of Serve; where it does not, `http_routes` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serve_app.door.admission import (
    FULL_DETAIL,
    RETRY_AFTER_S,
    Admission,
    Lane,
    Refused,
    ShedReason,
)
from serve_app.http.http_exchange import HttpReply, Receive, Scope, Send, send_reply
from serve_app.http.problems import problem_reply

SEAT = "flywheel.seat"
"""Where the scope of a request that was let in holds its seat."""
RECOMMEND_PATH = "/v1/recommend"
_HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
_SERVES_OWN = "/-/"

App = Callable[[Scope, Receive, Send], Awaitable[None]]


def _full_reply(retry_after_s: int) -> HttpReply:
    return problem_reply(Refused(ShedReason.FULL, FULL_DETAIL, retry_after_s=retry_after_s))


_FULL_REPLIES = {seconds: _full_reply(seconds) for seconds in range(1, RETRY_AFTER_S + 1)}


@dataclass(slots=True)
class Door:
    """What a gateway's middlewares and its application share."""

    admission: Admission | None = None
    """None until a gateway of this process serves; everybody is passed on until then."""


DOOR = Door()
"""Serve makes the middlewares and the application apart; the process is all they have in common."""


def lane_of(path: str) -> Lane:
    """The lane of a path."""
    if path == RECOMMEND_PATH:
        return Lane.SLATE
    if path in _HEALTH_PATHS or path.startswith(_SERVES_OWN):
        return Lane.HEALTH
    return Lane.OTHER


async def pass_door(
    admission: Admission,
    app: App,
    scope: Scope,
    receive: Receive,
    send: Send,
    request_id: str | None,
) -> None:
    """Let a request through to `app` with a seat in its scope, or refuse it with 503.

    Args:
        request_id: for the header of a refusal; None leaves it to the server.
    """
    seat = admission.arrive(lane_of(scope["path"]))
    if seat is None:
        await send_reply(send, _FULL_REPLIES[admission.retry_after_s()], request_id)
        return
    scope[SEAT] = seat
    try:
        await app(scope, receive, send)
    finally:
        seat.close()
