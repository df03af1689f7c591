"""The moment by which a caller waits, as a header: a deadline that crosses services."""

from __future__ import annotations

from dataclasses import replace

from recsys.errors import DeadlineExceeded, RequestError
from serve_app.http.recommend_requests import RecommendRequest

DEADLINE_HEADER = b"x-request-deadline"
"""Milliseconds since 1970, by the clock of whoever asks."""
MAX_DIGITS = 15


def within_deadline(
    request: RecommendRequest, deadline: bytes | None, now_ms: int, default_ms: int
) -> RecommendRequest:
    """The request with the time that is left, if that is less than what it allows itself.

    Args:
        deadline: value of `DEADLINE_HEADER`, None where there is none.

    Raises:
        RequestError: it is no such moment.
        DeadlineExceeded: it has passed.
    """
    if deadline is None:
        return request
    if not deadline.isdigit() or len(deadline) > MAX_DIGITS:
        raise RequestError(
            f"x-request-deadline is {deadline[:32]!r}, expected milliseconds since 1970; "
            "send such a moment, or deadline_ms in the request",
            status=400,
        )
    left_ms = int(deadline) - now_ms
    if left_ms <= 0:
        raise DeadlineExceeded(
            f"x-request-deadline passed {-left_ms} ms ago; nobody waits for the answer"
        )
    return replace(request, deadline_ms=min(left_ms, request.deadline_ms or default_ms))
