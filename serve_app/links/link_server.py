"""The replica's end of the links: answers calls one after the other, on the replica's loop.

Bundles take turns, so a slow one delays another by one call and not by all that wait for it. A
call whose caller no longer waits is not begun. Knows nothing of what a stage does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from recsys.link_certificates import LinkCertificates
from recsys.types import Batch
from serve_app.links.frame_reader import FrameReader
from serve_app.links.frames import (
    Buffer,
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
    LinkAddress,
    client_proof,
    is_same,
    new_nonce,
    new_token,
    server_proof,
)
from serve_app.links.secured_listener import SecuredListener

logger = logging.getLogger("ray.serve")

GREETING_S = 5.0
"""A peer that has not proved itself by then is let go."""
MAX_STRANGERS = 64
"""Peers at once that have not proved themselves."""
_REASON_LENGTH = 500

Run: TypeAlias = Callable[[str, str, Batch], Batch | None]
"""Method, bundle id and batch to the answer; None where the bundle is not held."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call in line."""

    frame: Frame
    note: Note
    received_s: float


class LinkServer:
    """Listens for gateways.

    Args:
        run: answers a call; runs on the loop, as a thread would cost more than it gains.
        replica_id: unique among replicas and their restarts.
        certificates: of the links, where they are encrypted.
        on_refused: told of each connection that came to no link: `greeting` where the peer did
            not prove that it knows the token, and what `SecuredListener` tells.
    """

    def __init__(
        self,
        run: Run,
        replica_id: str,
        certificates: LinkCertificates | None = None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run = run
        self._replica_id = replica_id
        self._certificates = certificates
        self.on_refused = on_refused
        self.token = new_token()
        self.links: set[_ServerLink] = set()
        self.is_stopping = False
        self._lines: dict[str, dict[tuple[_ServerLink, int], _Call]] = {}
        """By bundle, the one whose turn is next first; none of them is empty."""
        self._server: asyncio.Server | SecuredListener | None = None

    async def start(self, host: str) -> LinkAddress:
        """Listen on a free port of `host`."""
        if self._certificates is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _ServerLink(self), host, 0)
            port = int(self._server.sockets[0].getsockname()[1])
        else:
            self._server = SecuredListener(
                lambda: _ServerLink(self), self._certificates, self.on_refused
            )
            port = self._server.start(host)
        return LinkAddress(self._replica_id, host, port, self.token)

    async def stop(self, grace_s: float) -> None:
        """Ask every gateway to go elsewhere, wait until they have gone or `grace_s` is over."""
        if self._server is None:
            return
        self.is_stopping = True
        self._server.close()
        for link in tuple(self.links):
            link.leave()
        deadline_s = asyncio.get_running_loop().time() + grace_s
        while self.links and asyncio.get_running_loop().time() < deadline_s:
            await asyncio.sleep(0.02)
        for link in tuple(self.links):
            link.close()

    def take(self, link: _ServerLink, frame: Frame) -> None:
        """Put a call in line."""
        loop = asyncio.get_running_loop()
        try:
            note = read_note(frame)
        except FrameError as error:
            link.write(_failure(frame.call_id, error))
            return
        if not self._lines:
            loop.call_soon(self._answer_next)
        line = self._lines.setdefault(note.bundle_id, {})
        line[link, frame.call_id] = _Call(frame, note, loop.time())

    def cancel(self, link: _ServerLink, call_id: int) -> None:
        """Take a call out of the line, if it is still there."""
        for bundle_id, line in self._lines.items():
            if line.pop((link, call_id), None) is not None:
                if not line:
                    del self._lines[bundle_id]
                return

    def _answer_next(self) -> None:
        """Answer one call; the next has a turn of the loop of its own, so that others are read."""
        if not self._lines:
            return
        bundle_id = next(iter(self._lines))
        line = self._lines.pop(bundle_id)
        link, call_id = next(iter(line))
        call = line.pop((link, call_id))
        if line:
            self._lines[bundle_id] = line
        loop = asyncio.get_running_loop()
        if self._lines:
            loop.call_soon(self._answer_next)
        waited_ms = (loop.time() - call.received_s) * 1000
        if link.is_there and waited_ms < call.frame.time_left_ms:
            link.write(self._answer(call))

    def _answer(self, call: _Call) -> list[Buffer]:
        note, number = call.note, call.frame.call_id
        try:
            answer = self._run(note.method, note.bundle_id, read_batch(note, call.frame.body))
            kind = Kind.MISS if answer is None else Kind.ANSWER
            return pack_note(kind, number, note, answer)
        except Exception as error:
            return _failure(number, error)


def _failure(call_id: int, error: Exception) -> list[Buffer]:
    logger.warning("a stage call failed: %r", error)
    return pack_note(Kind.ERROR, call_id, Note("", "", reason=repr(error)[:_REASON_LENGTH]))


class _ServerLink(asyncio.BufferedProtocol):
    """One connection of a gateway."""

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._nonce = new_nonce()
        self._is_trusted = False
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None

    @property
    def is_there(self) -> bool:
        """Whether an answer would reach anybody."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        others = self._server.links
        if sum(not link._is_trusted for link in others) >= MAX_STRANGERS:
            self._server.on_refused("crowd")
            self._transport.abort()
            return
        others.add(self)
        self.write(pack_frame(Kind.HELLO, description=self._nonce))
        self._limit = asyncio.get_running_loop().call_later(GREETING_S, self.close)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._server.links and not self._is_trusted:
            self._server.on_refused("greeting")
        self._server.links.discard(self)
        if self._limit is not None:
            self._limit.cancel()

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
        self.write(pack_frame(Kind.LEAVING))

    def close(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def write(self, buffers: list[Buffer]) -> None:
        """Send, if anybody is there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(buffers)

    def _take(self, frame: Frame) -> None:
        if not self._is_trusted:
            self._greet(frame)
        elif frame.kind is Kind.CALL:
            self._server.take(self, frame)
        elif frame.kind is Kind.CANCEL:
            self._server.cancel(self, frame.call_id)
        elif frame.kind is Kind.PING:
            self.write(pack_frame(Kind.PONG, frame.call_id))
        else:
            raise FrameError(f"a {frame.kind.name.lower()} frame is no request")

    def _greet(self, frame: Frame) -> None:
        said, token = bytes(frame.description), self._server.token
        nonce, proof = said[:NONCE_BYTES], said[NONCE_BYTES:]
        expected = client_proof(token, self._nonce, nonce)
        if frame.kind is not Kind.HELLO or not is_same(proof, expected):
            raise FrameError("a peer does not know the token of this replica")
        self._is_trusted = True
        self._reader.trust()
        if self._limit is not None:
            self._limit.cancel()
        self.write(pack_frame(Kind.HELLO, description=server_proof(token, self._nonce, nonce)))
        if self._server.is_stopping:
            self.leave()
