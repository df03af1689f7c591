"""From received bytes to frames: small frames come together, a large one is received in place."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.links.frames import HEADER, MAX_FRAME_BYTES, Frame, Header, open_frame, read_header

_GATHERED_BYTES = 65_536
"""What one read may bring: many small frames, or the beginning of a large one."""


class FrameReader:
    """The two halves of `asyncio.BufferedProtocol`, without a transport.

    Args:
        max_bytes: the largest frame that is taken; raised by the caller once it trusts the peer,
            so that nobody else makes this process hold memory.
    """

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_bytes = max_bytes
        self._gathered = bytearray(_GATHERED_BYTES)
        self._n_gathered = 0
        self._large: bytearray | None = None
        self._header: Header | None = None
        self._n_large = 0

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
            header = read_header(memoryview(self._gathered)[begin:end], self.max_bytes)
            if header.frame_bytes > end - begin:
                if header.frame_bytes > _GATHERED_BYTES:
                    self._begin_large(header, begin, end)
                    return
                break
            # A copy of its own: the arrays outlive the next read.
            data = bytearray(memoryview(self._gathered)[begin : begin + header.frame_bytes])
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
