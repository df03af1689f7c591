"""Listens for links with TLS: a connection is a peer only once both sides have shown certificates.

A loop's own server tells nobody of a handshake that fails, and bounds none that are under way.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from recsys.link_certificates import LinkCertificates

logger = logging.getLogger("ray.serve")

HANDSHAKE_S = 5.0
"""A peer that has not shown its certificate by then is let go."""
MAX_HANDSHAKES = 64
"""Under way at once; whoever else comes is let go."""
_BACKLOG = 128
_REST_S = 0.5
"""After an accept that failed, as it does where there are no descriptors left."""


class SecuredListener:
    """Accepts links of peers with a certificate of the links' authority.

    Args:
        factory: makes the protocol of a peer.
        certificates: asked anew for each connection, as they may have been renewed.
        on_refused: told of each connection that came to no link: `tls` where the peer showed no
            good certificate or spoke plain text, `crowd` where too many came at once.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        certificates: LinkCertificates,
        on_refused: Callable[[str], None],
    ) -> None:
        self._factory = factory
        self._certificates = certificates
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self, host: str) -> int:
        """Listen on a free port of `host`, which is the answer."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
        listening.setblocking(False)
        self._accepting = self._loop.create_task(self._accept(listening))
        return int(listening.getsockname()[1])

    def close(self) -> None:
        """Listen no more, and let go of who has not shown a certificate; links go on."""
        if self._accepting is not None:
            self._accepting.cancel()
        for handshake in self._handshakes:
            handshake.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                try:
                    connection, _ = await self._loop.sock_accept(listening)
                except OSError as error:
                    logger.warning("no link could be accepted: %s", error)
                    await asyncio.sleep(_REST_S)
                else:
                    self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        if len(self._handshakes) >= MAX_HANDSHAKES:
            connection.close()
            self._on_refused("crowd")
            return
        handshake = self._loop.create_task(self._secure(connection))
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

    async def _secure(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory,
                connection,
                ssl=self._certificates.contexts().server,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except OSError as error:
            logger.warning("a peer was refused a link: %s", error)
            self._on_refused("tls")
