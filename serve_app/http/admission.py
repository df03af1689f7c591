"""How many requests a gateway replica lets in at once; one more is refused at the door."""

from __future__ import annotations

from types import TracebackType

from recsys.errors import Overloaded


class Admission:
    """A counter used as a context around each request; not for use from several threads."""

    def __init__(self, max_concurrent: int, retry_after_s: int = 1) -> None:
        self._max_concurrent = max_concurrent
        self._retry_after_s = retry_after_s
        self._n_inside = 0

    @property
    def n_inside(self) -> int:
        """Requests let in and not yet answered."""
        return self._n_inside

    def __enter__(self) -> None:
        """Let one request in.

        Raises:
            Overloaded: the replica is full.
        """
        if self._n_inside >= self._max_concurrent:
            raise Overloaded(
                f"{self._n_inside} requests are being answered, at most {self._max_concurrent} "
                "are let in at once; try again later",
                retry_after_s=self._retry_after_s,
            )
        self._n_inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let it out."""
        self._n_inside -= 1
