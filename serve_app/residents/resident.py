"""Several bundles loaded side by side in one replica: load, keep, retry, unload.

Knows when a bundle is loaded and let go, not what a bundle is or who asked for it. Loading runs
in a thread of its own at the lowest priority, so that requests go first.

A bundle is let go in two steps. First it is withdrawn: no longer said to be ready, yet still
answering. Only when that was reported, and requirements read after the report still leave it out,
is it dropped. So whoever requires a bundle and then reads that it is ready, finds it ready.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from recsys.errors import RecsysError

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

LOADING = "loading"
READY = "ready"
FAILED = "failed"

LOAD_NICE = 19
FIRST_RETRY_S = 5.0
MAX_RETRY_S = 300.0


@dataclass(slots=True)
class _Failure:
    reason: str
    n_attempts: int
    retry_at_s: float


@dataclass(slots=True)
class _Resident(Generic[T]):
    value: T
    last_used_s: float
    is_withdrawn: bool = False
    is_withdrawal_reported: bool = False


class ResidentBundles(Generic[T]):
    """The bundles of one replica.

    Args:
        load: loads, checks and warms one bundle; raises to refuse it.
        unload_after_s: a bundle no longer required is kept until it was unused for so long.
        clock: monotonic seconds.
        on_change: called, in the loading thread, after a state changed.
    """

    def __init__(
        self,
        load: Callable[[str], T],
        unload_after_s: float,
        clock: Callable[[], float],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._unload_after_s = unload_after_s
        self._clock = clock
        self._on_change = on_change
        self._required: tuple[str, ...] = ()
        self._resident: dict[str, _Resident[T]] = {}
        self._failures: dict[str, _Failure] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def get(self, bundle_id: str) -> T | None:
        """The loaded bundle, which counts as a use of it; None if it is not resident."""
        resident = self._resident.get(bundle_id)
        if resident is None:
            return None
        resident.last_used_s = self._clock()
        return resident.value

    def peek(self, bundle_id: str) -> T | None:
        """The loaded bundle, without counting as a use of it."""
        resident = self._resident.get(bundle_id)
        return None if resident is None else resident.value

    @property
    def bundle_ids(self) -> tuple[str, ...]:
        """What is resident now."""
        return tuple(self._resident)

    def require(self, bundle_ids: Sequence[str]) -> None:
        """Say which bundles must be resident, as read since the last `reported`."""
        with self._changed:
            self._required = tuple(dict.fromkeys(bundle_ids))
            self._let_go()
            self._failures = {
                name: failure for name, failure in self._failures.items() if name in self._required
            }
            self._changed.notify_all()

    def reported(self) -> None:
        """Say that the last `states` have reached whoever decides what is required."""
        with self._changed:
            for resident in self._resident.values():
                resident.is_withdrawal_reported = resident.is_withdrawn

    def states(self) -> dict[str, tuple[str, str]]:
        """State and reason of every required or resident bundle."""
        with self._changed:
            states = {
                name: (READY, "")
                for name, resident in self._resident.items()
                if not resident.is_withdrawn
            }
            for name in self._required:
                if name not in states:
                    failure = self._failures.get(name)
                    states[name] = (FAILED, failure.reason) if failure else (LOADING, "")
            return states

    def wait_until_settled(
        self, timeout_s: float, spared: Callable[[], frozenset[str]] = frozenset
    ) -> bool:
        """Wait until every required bundle but the spared ones is ready or refused."""
        with self._changed:
            return self._changed.wait_for(lambda: self._missing(spared()) is None, timeout_s)

    def start(self) -> None:
        """Start the loading thread."""
        self._thread = threading.Thread(target=self._loop, name="bundle-loader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loading thread after what it is loading."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def turn(self) -> bool:
        """One turn of the loading thread: load one bundle.

        Returns:
            Whether there may be more to do at once.
        """
        bundle_id = self._due()
        if bundle_id is None:
            return False
        try:
            loaded = self._load(bundle_id)
        except Exception as error:
            self._refuse(bundle_id, error)
        else:
            with self._changed:
                self._resident[bundle_id] = _Resident(loaded, self._clock())
                self._failures.pop(bundle_id, None)
                self._changed.notify_all()
        self._on_change()
        return True

    def _loop(self) -> None:
        settled_once = False
        while not self._stopped:
            if self.turn():
                continue
            if self._required and not settled_once:
                # Nobody waits for the first load but the replica's own start.
                settled_once = True
                _give_way()
            with self._changed:
                if not self._stopped and self._due() is None:
                    self._changed.wait(timeout=1.0)

    def _missing(self, spared: frozenset[str] = frozenset()) -> str | None:
        return next(
            (
                name
                for name in self._required
                if not (name in self._resident or name in self._failures or name in spared)
            ),
            None,
        )

    def _due(self) -> str | None:
        missing = self._missing()
        if missing is not None:
            return missing
        now_s = self._clock()
        return next(
            (
                name
                for name, failure in self._failures.items()
                if name in self._required and failure.retry_at_s <= now_s
            ),
            None,
        )

    def _refuse(self, bundle_id: str, error: Exception) -> None:
        if isinstance(error, RecsysError):
            logger.error("bundle %s is refused: %s", bundle_id, error)
        else:
            logger.error("bundle %s cannot be loaded", bundle_id, exc_info=error)
        with self._changed:
            earlier = self._failures.get(bundle_id)
            n_attempts = earlier.n_attempts + 1 if earlier else 1
            delay_s = min(FIRST_RETRY_S * 2 ** (n_attempts - 1), MAX_RETRY_S)
            reason = str(error) if isinstance(error, RecsysError) else repr(error)
            self._failures[bundle_id] = _Failure(reason, n_attempts, self._clock() + delay_s)
            self._changed.notify_all()

    def _let_go(self) -> None:
        now_s = self._clock()
        for name, resident in list(self._resident.items()):
            if name in self._required:
                resident.is_withdrawn = resident.is_withdrawal_reported = False
            elif now_s - resident.last_used_s < self._unload_after_s:
                continue
            elif resident.is_withdrawal_reported:
                del self._resident[name]
            else:
                resident.is_withdrawn = True


def _give_way() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOAD_NICE)
