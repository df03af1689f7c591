"""Lets a loop accept many connections in one turn: uvloop accepts one.

A turn is as long as the work in it, so under load new connections, and the requests sent on them,
would wait for seconds where nobody sees them, and nobody could refuse them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

MOST_AT_ONCE = 128
"""Connections accepted in one turn of the loop."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class WideServer:
    """A server whose listening socket is also drained by `accept_many`.

    Args:
        server: what the loop made; everything but closing is its own.
        tls: the TLS context of its connections, if any.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: asyncio.Server,
        listening: socket.socket,
        factory: ProtocolFactory,
        tls: Any,
    ) -> None:
        self._loop = loop
        self._server = server
        self._factory = factory
        self._tls = tls
        self._opening: set[asyncio.Task[Any]] = set()
        self._listening: socket.socket | None = listening
        loop.add_reader(listening.fileno(), self.accept_many)

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a server."""
        return getattr(self._server, name)

    def close(self) -> None:
        """Stop listening; what was accepted goes on."""
        listening, self._listening = self._listening, None
        if listening is not None:
            self._loop.remove_reader(listening.fileno())
            listening.close()
        self._server.close()

    def accept_many(self) -> None:
        """Take what waits to be accepted, up to `MOST_AT_ONCE`."""
        for _ in range(MOST_AT_ONCE):
            if self._listening is None:
                return
            try:
                connection, _ = self._listening.accept()
            except OSError:
                # Nobody is left, or there are no more descriptors; the loop asks again.
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted = self._loop.connect_accepted_socket(self._factory, connection, ssl=self._tls)
            task = self._loop.create_task(_told_nobody(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)


async def _told_nobody(accepted: Any) -> None:
    try:
        await accepted
    except OSError:
        # It was closed before it was ours.
        return


def accept_widely(loop: asyncio.AbstractEventLoop) -> None:
    """Make servers that this loop creates from here on for a given socket accept many at once."""
    create_server = loop.create_server

    async def create_wide(factory: ProtocolFactory, *args: Any, **options: Any) -> Any:
        server = await create_server(factory, *args, **options)
        given = options.get("sock")
        if given is None:
            return server
        listening = given.dup()
        listening.setblocking(False)
        return WideServer(loop, server, listening, factory, options.get("ssl"))

    loop.create_server = create_wide  # type: ignore[method-assign, assignment]
