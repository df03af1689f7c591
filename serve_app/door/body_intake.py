"""Bodies on their way in: how long one may take, and how many bytes all of them may hold.

Knows nothing of what they say. A slow caller holds the bytes it has sent and no seat.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from recsys.errors import RequestError
from serve_app.door.admission import Refused, ShedReason
from serve_app.http.http_exchange import Exchange, read_body

MAX_HELD_BYTES = 67_108_864
BODY_TIMEOUT_S = 10.0


class BodyIntake:
    """Reads the bodies of one gateway; not for use from several threads."""

    def __init__(
        self, max_held_bytes: int = MAX_HELD_BYTES, timeout_s: float = BODY_TIMEOUT_S
    ) -> None:
        self._max_held_bytes = max_held_bytes
        self._timeout_s = timeout_s
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies that are not whole yet."""
        return self._held_bytes

    async def read(self, exchange: Exchange, max_bytes: int) -> bytes:
        """The whole body; the seat is given back until it is there, if it has to be waited for.

        Raises:
            RequestError: 413 where it is too long, 400 where it does not come in time.
            Refused: all bodies together hold too much, or the seat was taken meanwhile.
            ClientGone: it never became whole.
        """
        held_bytes = 0
        is_slate = exchange.seat.is_inside
        exchange.seat.step_out()

        async def receive() -> MutableMapping[str, Any]:
            nonlocal held_bytes
            message = await exchange.receive()
            n_bytes = len(message.get("body", b""))
            if self._held_bytes + n_bytes > self._max_held_bytes:
                raise Refused(
                    ShedReason.BODIES,
                    f"bodies of {self._held_bytes} bytes are being received, at most "
                    f"{self._max_held_bytes} are held at once; try again later",
                )
            held_bytes += n_bytes
            self._held_bytes += n_bytes
            return message

        try:
            async with asyncio.timeout(self._timeout_s):
                body = await read_body(exchange.scope, receive, max_bytes)
        except TimeoutError as error:
            raise RequestError(
                f"the body was not whole after {self._timeout_s:g} s; send it faster", status=400
            ) from error
        finally:
            self._held_bytes -= held_bytes
        if is_slate:
            exchange.seat.step_in()
        return body
