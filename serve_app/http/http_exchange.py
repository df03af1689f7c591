"""One HTTP exchange over ASGI: reading a bounded body, writing one response in one piece."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from recsys.errors import RequestError
from serve_app.door.admission import Seat

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_TYPE = b"application/json"
REQUEST_ID_HEADER = b"x-request-id"
_MOST_WAITING = 2
"""Messages of a request without a body, its end included."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class ClientGone(Exception):
    """The caller closed the connection before its request was whole."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What is sent back."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON_TYPE
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request under way."""

    scope: Scope
    receive: Receive
    request_id: str
    received_at_ms: int
    seat: Seat
    started_s: float
    """When its head was seen, on the monotonic clock."""

    def has_left(self) -> bool:
        """Whether its caller is known to have closed the connection; asks without waiting."""
        return has_left(self.receive)

    @property
    def elapsed_ms(self) -> float:
        """Since it was received."""
        return (time.monotonic() - self.started_s) * 1000


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        RequestError: 413 as soon as it is known to be longer than `max_bytes`.
        ClientGone: it never became whole.
    """
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def has_left(receive: Receive) -> bool:
    """Whether the server already knows that the caller of a request read to its end has gone.

    One step of `receive`, which returns at once with what is there and else would wait: far
    cheaper than a task that watches.
    """
    for _ in range(_MOST_WAITING):
        waiting = receive().__await__()
        try:
            next(waiting)
        except StopIteration as done:
            if done.value["type"] == "http.disconnect":
                return True
        else:
            waiting.close()
            return False
    return False


async def send_reply(send: Send, reply: HttpReply, request_id: str | None) -> None:
    """Send the reply with its length; `request_id` None leaves that header to the server."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    if request_id is not None:
        headers.append((REQUEST_ID_HEADER, request_id.encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that lower-case name."""
    return next((value for key, value in scope["headers"] if key == name), None)


def request_id_of(scope: Mapping[str, Any], new_id: Callable[[], str]) -> str:
    """The caller's request id if it is a usable one, else a new one."""
    given = next((value for key, value in scope["headers"] if key == REQUEST_ID_HEADER), None)
    if given is not None and _REQUEST_ID.fullmatch(given):
        return str(given, "ascii")
    return new_id()


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(f"the body is longer than {max_bytes} bytes; send less at once", status=413)


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Confirm start and end of the server; there is nothing to do at either."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
