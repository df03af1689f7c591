"""Threads whose death is known: what ended one before its time is raised to who waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from recsys.errors import FleetError, RecsysError


class WatchedThreads:
    """Runs each work in a thread of its own from entering until leaving.

    Args:
        works: each is to return once `stopped` is set; what it raises or an earlier return is its
            death.
    """

    def __init__(self, works: Sequence[Callable[[], None]], stopped: threading.Event) -> None:
        self._stopped = stopped
        self._deaths: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in works]

    def __enter__(self) -> WatchedThreads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if kind is None or issubclass(kind, RecsysError):
            self.check()  # a death explains what was waited for in vain

    def check(self) -> None:
        """See that all of them live, or ended when they were to.

        Raises:
            FleetError: one died.
        """
        if self._deaths:
            raise FleetError(
                f"{len(self._deaths)} of {len(self._threads)} probes died, the first of "
                f"{self._deaths[0]!r}, expected none; what they would have seen is not known, run "
                "it again"
            ) from self._deaths[0]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._deaths.append(error)
        else:
            if not self._stopped.is_set():
                self._deaths.append(FleetError("it ended before its time"))
