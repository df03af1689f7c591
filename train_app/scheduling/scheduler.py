"""The scheduler: looks, decides by `due`, and leads one training at a time.

The only writer of the schedule's row in the control store. It publishes and changes nothing of
what runs: a rollout is the operator's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from recsys.errors import DataRefused, RecsysError
from recsys.settings import Settings
from recsys.stores.control.training_schedule import ScheduleState, TrainingResult, TrainingSchedule
from train_app.scheduling.due import Decision, begun, due, ended, steady
from train_app.scheduling.leashed_job import LeashedJob
from train_app.scheduling.training_sights import Sights

POLL_S = 5.0
_REFUSED = DataRefused.exit_code

_log = logging.getLogger(__name__)
_UNLUCKY = (RecsysError, OSError)
"""What the next turn may be spared."""

StartJob = Callable[[Sequence[str]], LeashedJob]


class Scheduler:
    """One turn after another until stopped.

    Args:
        start_job: starts a verb of `python -m train_app` with its options.
    """

    def __init__(
        self,
        settings: Settings,
        start_job: StartJob | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._settings = settings
        self._start_job = start_job or self._start
        self._now_ms = now_ms
        self._store = TrainingSchedule(settings.control_url)
        self._sights = Sights(settings)
        self._job: LeashedJob | None = None
        self.problem = ""
        """Why the last turn came to nothing; empty where it did not."""

    def turn(self) -> ScheduleState:
        """Look, decide and act once; the state that was left.

        Raises:
            RecsysError: a store cannot be used; the next turn may be luckier.
        """
        now_ms = self._now_ms()
        state = self._remembered(now_ms)
        if self._job is not None:
            return state
        decision = due(now_ms, state, self._sights.seen(), self._settings.schedule)
        acted = self._act(now_ms, state, decision)
        if acted != state:
            self._store.write(acted)
        return acted

    def run(self, is_stopped: threading.Event, poll_s: float = POLL_S) -> None:
        """Take turns until stopped, then end what was led; never raises."""
        while not is_stopped.is_set():
            try:
                self.turn()
                self._note("")
            except _UNLUCKY as error:
                self._note(str(error))
            is_stopped.wait(poll_s)
        self.stop()

    def stop(self) -> None:
        """End what it leads; the next scheduler takes it up again."""
        if self._job is not None and self._job.exit_code() is not None:
            with contextlib.suppress(*_UNLUCKY):
                self._remembered(self._now_ms())
        if self._job is not None:
            self._job.end()
        self._store.close()

    def _note(self, problem: str) -> None:
        """Say what keeps it from going on, in the log where that changed and in the row."""
        if problem and problem != self.problem:
            _log.warning("the scheduler cannot go on, it is tried again: %s", problem)
        elif self.problem and not problem:
            _log.info("the scheduler goes on")
        self.problem = problem
        if not problem or self._job is not None:
            return
        with contextlib.suppress(*_UNLUCKY):
            before = self._store.read() or ScheduleState()
            state = replace(before, waits_for=f"this to pass: {problem}", next_ms=0)
            if state != before:
                self._store.write(state)

    def _remembered(self, now_ms: int) -> ScheduleState:
        """The row as it is now, with the end of what was led, which is let go once it is written.

        Raises:
            RecsysError: the row cannot be read or written; what ended is still led.
        """
        before = self._store.read()
        # A row that only tells a problem is of a schedule that has not begun.
        begun_before = before if before is not None and before.since_ms else None
        state = steady(now_ms, begun_before or self._first(now_ms))
        code = None if self._job is None else self._job.exit_code()
        state = self._follow(now_ms, state, code)
        if state != before:
            self._store.write(state)
        if code is not None:
            self._job = None
        return state

    def _first(self, now_ms: int) -> ScheduleState:
        """The state of a schedule that begins: what is in the lake was somebody else's to train."""
        seen = self._sights.seen()
        return ScheduleState(since_ms=now_ms, known_engagements=seen.n_engagements)

    def _follow(self, now_ms: int, state: ScheduleState, code: int | None) -> ScheduleState:
        """The state after what is led came to its end, if it did.

        Args:
            code: how what is led ended; `None` while it runs, and where nothing is led.
        """
        if self._job is None:
            if not state.is_training:
                return state
            # An earlier scheduler began it and took it along when it died.
            return ended(now_ms, state, "interrupted", "the scheduler was stopped meanwhile")
        if code is None:
            return state
        if self._job.verb == "check-data":
            return _looked(now_ms, state, self._job)
        if not state.is_training:
            # A write that seemed to fail did not: it is not counted twice.
            return state
        result, detail = outcome(code, self._job)
        return ended(now_ms, state, result, detail)

    def _act(self, now_ms: int, state: ScheduleState, decision: Decision) -> ScheduleState:
        if decision.action == "wait":
            return replace(state, waits_for=decision.reason, next_ms=decision.next_ms)
        if decision.action == "check_drift":
            self._job = self._start_job(["check-data", "drift"])
            return replace(state, waits_for="a look at drift", next_ms=0)
        seen = self._sights.seen()
        # Written first: whoever finds the row knows that a training may have begun.
        state = begun(now_ms, state, seen)
        self._store.write(state)
        verb = ["train", "--publish"]
        verb += ["--warm-start"] if self._settings.schedule.warm_start else []
        try:
            self._job = self._start_job(verb)
        except OSError as error:
            return ended(now_ms, state, "failed", f"it could not be started: {error}")
        return state

    def _start(self, verb: Sequence[str]) -> LeashedJob:
        return LeashedJob(self._settings, self._settings.data_dir / "scheduled", verb)


def outcome(code: int, job: LeashedJob) -> tuple[TrainingResult, str]:
    """What a training's exit code and document say."""
    if code == 0:
        return "published", str(job.document().get("bundle_id"))
    if code < 0:
        return "killed", f"by signal {-code}"
    return ("refused" if code == _REFUSED else "failed"), job.last_line()


def _looked(now_ms: int, state: ScheduleState, job: LeashedJob) -> ScheduleState:
    """The state with the largest drift of any feature; what could not be measured is none."""
    checks = {check["name"]: check for check in job.document().get("checks", ())}
    figures = dict(checks.get("drift", {}).get("figures", {}))
    figures.pop("boundary_ms", None)
    largest = max((float(value) for value in figures.values() if value is not None), default=0.0)
    return replace(state, drift=largest, drift_checked_ms=now_ms)
