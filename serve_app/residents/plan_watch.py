"""Polls the control store and keeps the last good view when the store is away.

Knows neither bundles nor requests: whoever must follow the view is called with each new one.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace

from recsys.errors import RecsysError
from recsys.stores.control.control import ControlView

logger = logging.getLogger("ray.serve")

JITTER = 0.2
"""Share of the interval by which polls of several replicas drift apart."""


class PlanWatch:
    """The view of the control store as this replica knows it; epochs never go back.

    Args:
        read: reads the store once.
        follow: called in the polling thread after every poll with the view kept, also when the
            store was away.
        poll_s: seconds between polls.
        rng: for the jitter.
    """

    def __init__(
        self,
        read: Callable[[], ControlView],
        follow: Callable[[ControlView], None],
        poll_s: float,
        rng: random.Random,
    ) -> None:
        self._read = read
        self._follow = follow
        self._poll_s = poll_s
        self._rng = rng
        self._view: ControlView | None = None
        self._is_away = False
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def view(self) -> ControlView | None:
        """The last good view; None until the first."""
        return self._view

    def poll(self) -> None:
        """Read the store once and follow what is kept."""
        try:
            self._view = newer_view(self._view, self._read())
            self._is_away = False
        except (RecsysError, OSError) as error:
            if not self._is_away:
                kept = "no view yet" if self._view is None else "keeping the last view"
                logger.warning("control store is away, %s: %s", kept, error)
            self._is_away = True
        if self._view is not None:
            self._follow(self._view)

    def start(self) -> None:
        """Poll in a thread of its own until `stop`."""
        self._thread = threading.Thread(target=self._loop, name="plan-watch", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Poll now."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                self.poll()
            except Exception:
                logger.exception("following the control store failed; trying again")
            self._wake.wait(self._poll_s * (1 + JITTER * self._rng.random()))


def newer_view(kept: ControlView | None, read: ControlView) -> ControlView:
    """The view read, with the plan of the higher epoch; a plan once known is never lost."""
    if kept is None or kept.plan is None:
        return read
    if read.plan is None or read.plan.epoch < kept.plan.epoch:
        return replace(read, plan=kept.plan)
    return read
