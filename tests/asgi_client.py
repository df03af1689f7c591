"""Calls an ASGI application in this process, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def call(
    app: App,
    method: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    *,
    query: str = "",
    headers: dict[str, str] | None = None,
    leaves: bool = False,
) -> Reply:
    """One exchange; a body in several parts is sent in as many messages.

    Who `leaves` has closed the connection by the end of the body.
    """
    parts = [body] if isinstance(body, bytes) else list(body)
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    outgoing: asyncio.Queue[Message] = asyncio.Queue()
    for n, part in enumerate(parts, start=1):
        message = {"type": "http.request", "body": part, "more_body": n < len(parts)}
        incoming.put_nowait(message)
    if leaves:
        incoming.put_nowait({"type": "http.disconnect"})
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
    }
    await app(scope, incoming.get, outgoing.put)
    start = outgoing.get_nowait()
    bodies = [outgoing.get_nowait() for _ in range(outgoing.qsize())]
    names = [name for name, _ in start["headers"]]
    assert len(names) == len(set(names)), "a header was sent twice"
    whole = b"".join(message["body"] for message in bodies)
    decoded = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(int(start["status"]), decoded, whole)
