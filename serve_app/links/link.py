"""The gateway's end of one link: calls under way, each answered by its number."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from recsys.types import Batch
from serve_app.links.frame_reader import FrameReader
from serve_app.links.frames import (
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
    server_proof,
)

CONNECT_S = 2.0


class LinkLost(ConnectionError):
    """The replica went away before it answered."""


class StageError(RuntimeError):
    """The stage failed on this batch; another replica would, too."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One call under way at one replica."""

    link: Link
    number: int
    answered: asyncio.Future[Batch | None]
    """The answer; None where the replica does not hold the bundle. `LinkLost` where it went away
    first, `StageError` where the stage failed."""

    def end(self) -> None:
        """Let go of it; a call that was not answered is taken out of the replica's line."""
        self.link.end(self)


class Link(asyncio.BufferedProtocol):
    """One connection to one replica.

    Args:
        on_room: called when a call has ended.
        on_leave: called when the replica goes, or says that it will.
    """

    def __init__(
        self, address: LinkAddress, on_room: Callable[[], None], on_leave: Callable[[], None]
    ) -> None:
        self.address = address
        self.is_leaving = False
        """The replica stops; it still answers, but others should be asked."""
        self._on_room, self._on_leave = on_room, on_leave
        self._loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self._nonces: tuple[bytes, bytes] | None = None
        self._pending: dict[int, asyncio.Future[Batch | None]] = {}
        self._asked: dict[int, str] = {}
        self._numbers = itertools.cycle(range(1, 2**32))
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._n_silent = 0
        self._has_let_down = False
        self._is_lost = False

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self.greeted.done() and not self._is_lost

    @property
    def burden(self) -> tuple[bool, int]:
        """How little it should be asked: whether it let a call down since it last said anything,
        then its calls under way."""
        return self._has_let_down, len(self._pending)

    @property
    def n_outstanding(self) -> int:
        """Calls under way."""
        return len(self._pending)

    def n_asked_for(self, bundle_id: str) -> int:
        """Calls under way for one bundle."""
        return sum(asked == bundle_id for asked in self._asked.values())

    def send(self, method: str, bundle_id: str, batch: Batch, time_left_s: float) -> Attempt:
        """Begin a call, which whoever began it has to end.

        Raises:
            LinkLost: the replica has gone.
        """
        if self._transport is None or self._is_lost:
            raise LinkLost(f"replica {self.address.replica_id} is gone")
        number = next(self._numbers)
        left_ms = max(1, round(time_left_s * 1000))
        frames = pack_note(Kind.CALL, number, Note(method, bundle_id), batch, left_ms)
        answered: asyncio.Future[Batch | None] = self._loop.create_future()
        self._pending[number], self._asked[number] = answered, bundle_id
        self._transport.writelines(frames)
        return Attempt(self, number, answered)

    def end(self, attempt: Attempt) -> None:
        """See `Attempt.end`."""
        answered = attempt.answered
        if answered.cancelled() or not answered.done():
            self._has_let_down = True
            if self._transport is not None and not self._is_lost:
                self._transport.writelines(pack_frame(Kind.CANCEL, attempt.number))
        else:
            answered.exception()  # that of a call beside the one that was taken is nobody's
        del self._pending[attempt.number], self._asked[attempt.number]
        self._on_room()

    def beat(self, n_patient: int) -> None:
        """Ask for a sign of life; a replica that was asked `n_patient` times in vain is given up.

        Counted in questions, not seconds: while this process stood still, nobody was asked.
        """
        if self._transport is None or self._is_lost:
            return
        self._n_silent += 1
        if self._n_silent > n_patient:
            self._transport.abort()
        else:
            self._transport.writelines(pack_frame(Kind.PING))

    def close(self) -> None:
        """Cut the connection; calls under way are lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        lost = LinkLost(f"replica {self.address.replica_id} went away: {error or 'closed'}")
        if not self.greeted.done():
            self.greeted.set_exception(lost)
            self.greeted.exception()  # whoever connects may have given up
        for answered in self._pending.values():
            if not answered.done():
                answered.set_exception(lost)
        self._on_leave()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        self._n_silent = 0
        if self._has_let_down:
            self._has_let_down = False
            self._on_room()
        try:
            for frame in self._reader.took(nbytes):
                self._take(frame)
        except FrameError as error:
            self._fail(error)

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.HELLO:
            self._greet(bytes(frame.description))
        elif frame.kind is Kind.LEAVING:
            self.is_leaving = True
            self._on_leave()
        elif frame.kind is not Kind.PONG:
            self._settle(frame)

    def _greet(self, said: bytes) -> None:
        assert self._transport is not None
        token = self.address.token
        if self._nonces is None:
            if len(said) != NONCE_BYTES:
                raise FrameError("a replica greets with no nonce")
            self._nonces = said, new_nonce()
            proof = client_proof(token, *self._nonces)
            self._transport.writelines(pack_frame(Kind.HELLO, description=self._nonces[1] + proof))
        elif not is_same(said, server_proof(token, *self._nonces)):
            raise FrameError("whoever listens there does not know the replica's token")
        elif not self.greeted.done():
            self._reader.trust()
            self.greeted.set_result(None)

    def _settle(self, frame: Frame) -> None:
        answered = self._pending.get(frame.call_id)
        if answered is None or answered.done():
            return  # its caller has given up
        try:
            answered.set_result(self._answer_of(frame))
        except (StageError, FrameError) as error:
            # The frame came whole, so the calls beside this one are well.
            answered.set_exception(StageError(str(error)))

    def _answer_of(self, frame: Frame) -> Batch | None:
        note = read_note(frame)
        if frame.kind is Kind.ERROR:
            raise StageError(note.reason)
        if note.bundle_id != self._asked[frame.call_id]:
            raise StageError(f"the answer is by bundle {note.bundle_id}, which was not asked")
        return None if frame.kind is Kind.MISS else read_batch(note, frame.body)

    def _fail(self, error: FrameError) -> None:
        """What cannot be read ends the link: where the next frame begins is not known."""
        if not self.greeted.done():
            self.greeted.set_exception(LinkLost(str(error)))
        self.close()


async def open_link(
    address: LinkAddress,
    on_room: Callable[[], None],
    on_leave: Callable[[], None],
    tls: ssl.SSLContext | None = None,
) -> Link:
    """Connect and greet; see `Link` for the other arguments.

    Args:
        tls: what the connection is secured with; None leaves it plain.

    Raises:
        LinkLost: the replica cannot be reached, knows another token, or either end refuses the
            other's certificate.
    """
    loop = asyncio.get_running_loop()
    link = Link(address, on_room, on_leave)
    try:
        async with asyncio.timeout(CONNECT_S):
            await loop.create_connection(lambda: link, address.host, address.port, ssl=tls)
            await link.greeted
    except BaseException as error:
        link.close()
        if not isinstance(error, OSError):
            raise
        reason = str(error) or f"no greeting within {CONNECT_S:.0f} s"
        if isinstance(error, ssl.SSLError):
            reason += "; expected TLS of the same authority at both ends, see security.link_tls"
        raise LinkLost(
            f"replica {address.replica_id} at {address.host}:{address.port}: {reason}"
        ) from error
    return link
