"""Keeps one controller turning on a thread of its own, in a Serve replica or in any process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from cluster.rollouts.driving.controller import IDLE_S, Controller, Moved
from cluster.rollouts.driving.controller_lease import ControllerLease
from cluster.rollouts.driving.evidence_source import EvidenceSource
from cluster.rollouts.driving.rollout_actions import FleetControl, Operator
from cluster.rollouts.driving.scheduled_rollout import scheduled_rollouts
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import RecsysError
from recsys.evidence.arm_sample import KIND_MEANINGS, KindMeanings
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from recsys.stores.evidence.evidence import EvidenceReader

UNHEALTHY_S = 60.0
"""A controller that fails for so long asks to be started anew."""
_STOP_S = 10.0

log = logging.getLogger("cluster.rollouts.driving.controller_loop")


class ControllerLoop:
    """Turns until stopped; what fails is said and tried again.

    Args:
        turn: one turn; returns the seconds until the next.
        let_go: called once, at the end.
    """

    def __init__(self, turn: Callable[[], float], let_go: Callable[[], None]) -> None:
        self._turn = turn
        self._let_go = let_go
        self._stopped = threading.Event()
        self._failing: tuple[float, str] | None = None
        self._thread = threading.Thread(target=self._run, name="rollout-controller", daemon=True)
        self._thread.start()

    def problem(self) -> str | None:
        """Why it is not healthy; None where it is."""
        failing = self._failing
        if not self._thread.is_alive() and not self._stopped.is_set():
            return "the controller's thread ended, expected it to turn; see the replica's log"
        if failing is None or time.monotonic() - failing[0] < UNHEALTHY_S:
            return None
        return f"no turn of the controller succeeded for {UNHEALTHY_S:g} s: {failing[1]}"

    def stop(self) -> None:
        """End after the present turn, and let another controller follow."""
        self._stopped.set()
        self._thread.join(_STOP_S)
        with suppress(RecsysError):
            self._let_go()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopped.wait(pause_s):
            try:
                pause_s = self._turn()
                self._failing = None
            except Exception as error:
                began_s = time.monotonic() if self._failing is None else self._failing[0]
                if self._failing is None or not isinstance(error, RecsysError):
                    log.warning("a turn failed: %s", error, exc_info=True)
                self._failing = (began_s, str(error))
                pause_s = IDLE_S


def open_controller(
    settings: Settings, name: str, tell: Callable[[Moved], None] = lambda moved: None
) -> Controller:
    """A controller on the stores of these settings.

    Args:
        name: unlike that of any other controller, living or gone.
        tell: called after each recorded move; must not raise.
    """
    operator = Operator(name, now_ms, time.sleep, log.info)
    writer = ControlWriter(settings.control_url)
    reader = ControlReader(settings.control_url)
    evidence = EvidenceReader(settings.evidence_url)
    return Controller(
        writer,
        FleetControl(settings, writer, reader, operator),
        ControllerLease(settings.control_url),
        EvidenceSource(evidence, now_ms, kind_meanings(settings)),
        operator,
        tell,
        evidence.shadow,
        scheduled_rollouts(settings, writer, reader, operator),
    )


def kind_meanings(settings: Settings) -> KindMeanings:
    """What engagements are worth to the judge: what the scorer is trained to give."""
    weights = dict(settings.train.scorer.utility_weights)
    return replace(KIND_MEANINGS, negative=settings.events.negative_kinds, weights=weights or None)


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
