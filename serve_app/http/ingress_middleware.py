"""What wraps Ray Serve's own HTTP handling, named by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`.

It refuses what the gateway has no room for before Serve schedules it, settles the request id
before Serve copies it into the response, and turns off Serve's watch for disconnects, which costs
two tasks a request: our deadlines bound the work of a caller that went away.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from recsys.events import new_event_id
from serve_app.door.front_door import DOOR, pass_door
from serve_app.http.http_exchange import REQUEST_ID_HEADER, Receive, Scope, Send, request_id_of

IMPORT_PATH = "serve_app.http.ingress_middleware:middlewares"
DISCONNECT_HEADER = b"x-request-disconnect-disabled"
_SETTLED = frozenset({REQUEST_ID_HEADER, DISCONNECT_HEADER})


class IngressMiddleware:
    """Refuses at the door, and rewrites the headers of every HTTP request that passes."""

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Any], *, watches_disconnects: bool
    ) -> None:
        self._app = app
        self._watches_disconnects = watches_disconnects
        self._added = [] if watches_disconnects else [(DISCONNECT_HEADER, b"?1")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its request id settled, if there is room for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope, new_event_id)
        scope["headers"] = [
            *(pair for pair in scope["headers"] if pair[0] not in _SETTLED),
            (REQUEST_ID_HEADER, request_id.encode()),
            *self._added,
        ]
        # The door counts on one thread.
        admission = None if self._watches_disconnects else DOOR.admission
        if admission is None:
            await self._app(scope, receive, send)
        else:
            await pass_door(admission, self._app, scope, receive, send, request_id)


def middlewares() -> list[Any]:
    """The middlewares Serve wraps around its HTTP servers."""
    from starlette.middleware import Middleware

    # Serve gives this flag no public name. In a separate thread Serve itself must read the body,
    # which only its watch does.
    constants = importlib.import_module("ray.serve._private.constants")
    watches = bool(constants.RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD)
    return [Middleware(IngressMiddleware, watches_disconnects=watches)]
