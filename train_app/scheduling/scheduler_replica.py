"""The scheduler as one replica of the application `workers`."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from recsys.errors import DataError, StoreError
from recsys.settings import Settings
from train_app.run_directory import one_at_a_time
from train_app.scheduling.scheduler import POLL_S, Scheduler


class SchedulerReplica:
    """Leads trainings from a thread of its own, while no other replica does.

    Args:
        settings: the resolved settings as a JSON document.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = Settings.model_validate(settings)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def check_health(self) -> None:
        """Called by Ray Serve, which restarts the replica where this raises."""
        if not self._thread.is_alive():
            raise StoreError("the scheduler's thread ended; the replica has to be started anew")

    def stop(self) -> None:
        """End after the present turn, and the training with it."""
        self._is_stopped.set()
        self._thread.join(timeout=15)

    def __del__(self) -> None:
        """Called by Ray Serve before the replica ends."""
        if hasattr(self, "_thread"):
            self.stop()

    def _run(self) -> None:
        """Wait for the place of the one scheduler, then take turns until stopped."""
        lock = self._settings.data_dir / "schedule.lock"
        while not self._is_stopped.is_set():
            with contextlib.suppress(DataError), one_at_a_time(lock, "a scheduler"):
                Scheduler(self._settings).run(self._is_stopped)
            self._is_stopped.wait(POLL_S)
