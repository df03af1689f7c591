"""From received bytes to frames: small frames come together, a large one is received in place."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.links.frames import HEADER, MAX_FRAME_BYTES, Frame, Header, open_frame, read_header

_GATHERED_BYTES = 65_536
"""What one read may bring: many small frames, or the beginning of a large one."""
_GREETING_BYTES = 256
"""The same, and the largest frame, as long as the peer has not proved itself."""


class FrameReader:
    """The two halves of `asyncio.BufferedProtocol`, without a transport.

    Takes greetings only, until `trust`: nobody unknown makes this process hold memory.
    """

    def __init__(self) -> None:
        self._max_bytes = _GREETING_BYTES
        self._gathered = bytearray(_GREETING_BYTES)
        self._n_gathered = 0
        self._large: bytearray | None = None
        self._header: Header | None = None
        self._n_large = 0

    def trust(self) -> None:
        """From the next frame on take frames of any allowed size."""
        self._max_bytes = MAX_FRAME_BYTES
        kept = self._gathered
        self._gathered = bytearray(_GATHERED_BYTES)
        self._gathered[: len(kept)] = kept

    def space(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._large is not None:
            return memoryview(self._large)[self._n_large :]
        return memoryview(self._gathered)[self._n_gathered :]

    def took(self, n_bytes: int) -> Iterator[Frame]:
        """The frames that are whole now that so many bytes more were received.

        Raises:
            FrameError: what was received is no frame.
        """
        if self._large is not None:
            yield from self._took_large(n_bytes)
            return
        end = self._n_gathered + n_bytes
        begin = 0
        while end - begin >= HEADER.size:
            # Looked up anew: whoever takes a frame may begin to trust the peer.
            gathered = memoryview(self._gathered)
            header = read_header(gathered[begin:end], self._max_bytes)
            if header.frame_bytes > end - begin:
                if header.frame_bytes > len(gathered):
                    self._begin_large(header, begin, end)
                    return
                break
            # A copy of its own: the arrays outlive the next read.
            data = bytearray(gathered[begin : begin + header.frame_bytes])
            begin += header.frame_bytes
            yield open_frame(header, memoryview(data))
        if begin:
            self._gathered[: end - begin] = self._gathered[begin:end]
        self._n_gathered = end - begin

    def _begin_large(self, header: Header, begin: int, end: int) -> None:
        self._large = bytearray(header.frame_bytes)
        self._large[: end - begin] = memoryview(self._gathered)[begin:end]
        self._header, self._n_large, self._n_gathered = header, end - begin, 0

    def _took_large(self, n_bytes: int) -> Iterator[Frame]:
        assert self._large is not None
        assert self._header is not None
        self._n_large += n_bytes
        if self._n_large == len(self._large):
            whole, self._large = memoryview(self._large), None
            yield open_frame(self._header, whole)
