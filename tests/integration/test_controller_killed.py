"""Two controllers as processes of their own; the one that drives is killed with SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.rollouts.deciding.rollout_plan import PlanStep, RolloutPlan
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.deciding.rollout_turn import replay
from cluster.rollouts.driving.controller_lease import ControllerLease
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.settings import ServeSettings, Settings
from recsys.stores.control.control import ControlReader, ReadinessReporter
from recsys.traffic import TrafficPlan

pytestmark = pytest.mark.integration

CONTROLLER = """
import sys, threading
from cluster.rollouts.driving.controller_loop import ControllerLoop, open_controller
from recsys.settings import Settings
controller = open_controller(Settings.model_validate_json(sys.argv[1]), sys.argv[2])
loop = ControllerLoop(controller.turn, controller.let_go)
threading.Event().wait()
"""
PLAN = RolloutPlan("one", (PlanStep(0.1, max_s=1.0, on_timeout="abort", metrics=()),))  # type: ignore[arg-type]


def now_ms() -> int:
    """The processes use the real clock."""
    return time.time_ns() // 1_000_000


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Until it is so."""
    ends = time.monotonic() + timeout_s
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        waiting.wait(0.02)


@contextmanager
def a_gateway(settings: Settings) -> Generator[list[tuple[int, float]]]:
    """Polls the control store ten times a second; yields the epochs it followed, with the time."""
    reader, reporter = ControlReader(settings.control_url), ReadinessReporter(settings.control_url)
    stopped = threading.Event()
    followed: list[tuple[int, float]] = []

    def follow() -> None:
        while not stopped.wait(0.1):
            view = reader.view()
            epoch = 0 if view.plan is None else view.plan.epoch
            if not followed or followed[-1][0] != epoch:
                followed.append((epoch, time.monotonic()))
            states = {name: ("ready", "") for name in view.required}
            reporter.report("g", "gateway", states, epoch, now_ms())

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield followed
    finally:
        stopped.set()
        thread.join()


@contextmanager
def a_controller(settings: Settings, name: str) -> Generator[subprocess.Popen[bytes]]:
    """A process that drives rollouts until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", CONTROLLER, settings.model_dump_json(), name])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_controller_is_followed_by_the_other(tmp_path: Path) -> None:
    """The rollout ends as its plan says, no plan regresses, and its turns replay."""
    settings = Settings(data_dir=tmp_path, serve=ServeSettings(placement="fused"))
    writer = ControlWriter(settings.control_url)
    writer.set_required(("b1",), ())
    writer.set_plan(TrafficPlan.single("b1", 1, "s"), 0)
    writer.set_alias("stable", "b1", None)
    lease = ControllerLease(settings.control_url)

    def latest() -> Rollout:
        return writer.rollouts()[-1].rollout

    with (
        a_gateway(settings) as followed,
        a_controller(settings, "one") as one,
        a_controller(settings, "two") as two,
    ):
        wait_for(lambda: lease.is_held(now_ms()))
        at = now_ms()
        rollout = Rollout(
            "r1",
            "b2",
            "b1",
            "one",
            PLAN.shares,
            ("b1",),
            ("b2", "b1"),
            at,
            60_000,
            at,
            plan=PLAN,
        )
        writer.start_rollout(rollout, "ann", at, driven_ms=0)
        wait_for(lambda: latest().phase is not Phase.STARTING)
        held = lease.read()
        assert held is not None
        killed = {"one": one, "two": two}[held.owner]
        killed.send_signal(signal.SIGKILL)
        wait_for(lambda: latest().is_closed)
        followers = {turn.who for turn in writer.turns("r1")}
    ended = latest()
    assert (ended.phase, ended.reason) == (Phase.ABORTED, Reason.UNDECIDED)
    assert "longest time of 1 s is over" in ended.message
    assert followers == {"ann", "one", "two"}
    epochs = [epoch for epoch, _ in followed]
    assert epochs == sorted(epochs)
    view = ControlReader(settings.control_url).view()
    assert view.plan is not None
    assert (view.plan.bundle_ids, view.required) == (("b1",), ("b1",))
    assert replay(writer.turns("r1")) == ()
