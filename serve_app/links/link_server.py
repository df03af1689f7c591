"""The replica's end of the links: answers calls one after the other, on the replica's loop.

A call whose caller no longer waits is not begun. Knows nothing of what a stage does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from recsys.types import Batch
from serve_app.links.frame_reader import FrameReader
from serve_app.links.frames import (
    MAX_FRAME_BYTES,
    Frame,
    FrameError,
    Kind,
    Note,
    pack_frame,
    pack_note,
    read_batch,
    read_note,
)
from serve_app.links.handshake import (
    NONCE_BYTES,
    client_proof,
    is_same,
    new_nonce,
    new_token,
    server_proof,
)

logger = logging.getLogger("ray.serve")

GREETING_S = 5.0
"""A peer that has not proved itself by then is let go."""
_GREETING_BYTES = 256
_REASON_LENGTH = 500

Run: TypeAlias = Callable[[str, str, Batch], Batch | None]
"""Method, bundle id and batch to the answer; None where the bundle is not held."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """Where a replica listens and what opens it; told through Ray, whose callers are trusted."""

    replica_id: str
    host: str
    port: int
    token: bytes


class LinkServer:
    """Listens for gateways.

    Args:
        run: answers a call; runs on the loop, as a thread would cost more than it gains.
        replica_id: unique among replicas and their restarts.
    """

    def __init__(self, run: Run, replica_id: str) -> None:
        self._run = run
        self._replica_id = replica_id
        self._token = new_token()
        self._links: set[_ServerLink] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str) -> LinkAddress:
        """Listen on a free port of `host`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _ServerLink(self._run, self._token, self._links), host, 0
        )
        port = int(self._server.sockets[0].getsockname()[1])
        return LinkAddress(self._replica_id, host, port, self._token)

    async def stop(self, grace_s: float) -> None:
        """Ask every gateway to go elsewhere, wait until they have gone or `grace_s` is over."""
        if self._server is None:
            return
        self._server.close()
        for link in tuple(self._links):
            link.leave()
        deadline_s = asyncio.get_running_loop().time() + grace_s
        while self._links and asyncio.get_running_loop().time() < deadline_s:
            await asyncio.sleep(0.02)
        for link in tuple(self._links):
            link.close()


class _ServerLink(asyncio.BufferedProtocol):
    """One connection of a gateway."""

    def __init__(self, run: Run, token: bytes, links: set[_ServerLink]) -> None:
        self._run = run
        self._token = token
        self._links = links
        self._nonce = new_nonce()
        self._is_trusted = False
        self._reader = FrameReader(_GREETING_BYTES)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._links.add(self)
        self._transport.writelines(pack_frame(Kind.HELLO, description=self._nonce))
        self._loop.call_later(GREETING_S, self._let_go_of_strangers)

    def connection_lost(self, error: Exception | None) -> None:
        self._links.discard(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for frame in self._reader.took(nbytes):
                self._take(frame)
        except FrameError as error:
            logger.warning("a link was closed: %s", error)
            self.close()

    def leave(self) -> None:
        """Say that this replica stops."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(pack_frame(Kind.LEAVING))

    def close(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if not self._is_trusted:
            self._greet(frame)
        elif frame.kind is Kind.CALL:
            # Each in a turn of its own, so that other connections are read in between.
            self._loop.call_soon(self._answer, frame, self._loop.time())
        elif frame.kind is Kind.PING:
            self._write(pack_frame(Kind.PONG, frame.call_id))
        else:
            raise FrameError(f"a {frame.kind.name.lower()} frame is no request")

    def _greet(self, frame: Frame) -> None:
        said = bytes(frame.description)
        nonce, proof = said[:NONCE_BYTES], said[NONCE_BYTES:]
        expected = client_proof(self._token, self._nonce, nonce)
        if frame.kind is not Kind.HELLO or not is_same(proof, expected):
            raise FrameError("a peer does not know the token of this replica")
        self._is_trusted = True
        self._reader.max_bytes = MAX_FRAME_BYTES
        self._write(
            pack_frame(Kind.HELLO, description=server_proof(self._token, self._nonce, nonce))
        )

    def _let_go_of_strangers(self) -> None:
        if not self._is_trusted:
            self.close()

    def _answer(self, frame: Frame, received_s: float) -> None:
        waited_ms = (self._loop.time() - received_s) * 1000
        if waited_ms >= frame.time_left_ms or self._transport is None:
            return  # nobody waits for it any more
        try:
            note = read_note(frame)
            answer = self._run(note.method, note.bundle_id, read_batch(note, frame.body))
        except FrameError as error:
            logger.warning("a link was closed: %s", error)
            self.close()
        except Exception as error:
            logger.warning("a stage call failed: %r", error)
            reason = Note("", "", reason=repr(error)[:_REASON_LENGTH])
            self._write(pack_note(Kind.ERROR, frame.call_id, reason))
        else:
            kind = Kind.MISS if answer is None else Kind.ANSWER
            self._write(pack_note(kind, frame.call_id, note, answer))

    def _write(self, buffers: list[bytes | bytearray | memoryview]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(buffers)
