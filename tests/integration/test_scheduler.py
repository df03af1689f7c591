"""The scheduler with processes: what they end with; a kill leaves no orphan and no pair."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from recsys.learning_settings import ScheduleSettings
from recsys.settings import Settings
from recsys.stores.control.training_schedule import ScheduleState, TrainingSchedule
from tests.example_lake import a_lake, an_engagement
from train_app.run_directory import one_at_a_time
from train_app.scheduling.due import MINUTE_MS
from train_app.scheduling.leashed_job import LeashedJob
from train_app.scheduling.scheduler import Scheduler

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NOW_MS = 1_790_000_000_000
JOB = """
import json, os, signal, sys
from pathlib import Path
from recsys.settings import Settings
from train_app.run_directory import one_at_a_time
from train_app.scheduling.leashed import hold_leash

parent, verb, *options = sys.argv[1:]
if not hold_leash(int(parent)):
    sys.exit(1)
settings = Settings.model_validate_json(Path(options[options.index("--settings") + 1]).read_text())
ending = (settings.data_dir / "ending").read_text()
if verb == "check-data":
    print(json.dumps({"checks": [{"name": "drift", "figures": {"boundary_ms": 9, "kind": 0.7}}]}))
    sys.exit(0)
with one_at_a_time(settings.data_dir / "train.lock", "a training"):
    with (settings.data_dir / "trained").open("a") as trained:
        print(os.getpid(), os.getpriority(os.PRIO_PROCESS, 0), os.environ["OMP_NUM_THREADS"],
              settings.train.n_threads, *options[:2], file=trained)
    if ending == "never":
        signal.pause()
    if ending == "refused":
        print("error: the gate refused", file=sys.stderr)
        sys.exit(6)
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps({"bundle_id": "b-new"}))
"""
SCHEDULER = """
import sys, threading
from pathlib import Path
from recsys.settings import Settings
from train_app.scheduling.leashed_job import LeashedJob
from train_app.scheduling.scheduler import Scheduler

settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
folder = settings.data_dir / "scheduled"
start = lambda verb: LeashedJob(settings, folder, verb, module="job_for_tests")
Scheduler(settings, start).run(threading.Event(), poll_s=0.05)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A lake of ten engagements, a schedule that knew none of them, and a training made up."""
    lake = a_lake(
        tmp_path,
        engagements=[an_engagement("u", f"i{n}", NOW_MS - 1_000 + n) for n in range(10)],
    )
    (tmp_path / "job_for_tests.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    schedule = ScheduleSettings(train="continuous", min_new_engagements=5, rest_minutes=0)
    settings = lake.model_copy(update={"schedule": schedule})
    store = TrainingSchedule(settings.control_url)
    store.write(ScheduleState(since_ms=NOW_MS - MINUTE_MS))
    store.close()
    return settings


def the_state(settings: Settings) -> ScheduleState:
    """What the schedule remembers."""
    store = TrainingSchedule(settings.control_url)
    state = store.read()
    store.close()
    assert state is not None
    return state


def ending(settings: Settings, how: str) -> None:
    """How the next trainings end."""
    (settings.data_dir / "ending").write_text(how)


def trainings(settings: Settings) -> list[list[str]]:
    """What every training that held the lock wrote of itself."""
    with contextlib.suppress(FileNotFoundError):
        return [line.split() for line in (settings.data_dir / "trained").read_text().splitlines()]
    return []


def until(is_so: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait for a condition."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {within_s} s for {what}"
        time.sleep(0.02)


@contextmanager
def a_scheduler(settings: Settings, clock_ms: list[int]) -> Generator[Scheduler]:
    """One in this process, whose clock is the last entry."""

    def start(verb: Sequence[str]) -> LeashedJob:
        folder = settings.data_dir / "scheduled"
        return LeashedJob(settings, folder, verb, module="job_for_tests")

    scheduler = Scheduler(settings, start, lambda: clock_ms[-1])
    try:
        yield scheduler
    finally:
        scheduler.stop()


@pytest.mark.parametrize(
    ("how", "result", "detail", "n_failures"),
    [
        ("published", "published", "b-new", 0),
        ("refused", "refused", "error: the gate refused", 0),
        ("killed", "killed", "by signal 9", 1),
    ],
)
def test_a_training_ends_in_the_row_with_its_bundle_or_its_reason(
    place: Settings, how: str, result: str, detail: str, n_failures: int
) -> None:
    """It ran with low priority and few threads; after it more is awaited."""
    ending(place, how)
    with a_scheduler(place, [NOW_MS]) as scheduler:
        assert scheduler.turn().is_training
        until(lambda: not scheduler.turn().is_training, "the training's end")
    state = the_state(place)
    assert (state.result, state.detail, state.n_failures) == (result, detail, n_failures)
    assert state.known_engagements == 10
    assert state.waits_for == ("its time" if n_failures else "0 new engagements, 5 wanted")
    assert [words[1:] for words in trainings(place)] == [
        [str(place.train.nice), "1", "1", "--publish", "--warm-start"]
    ]


def test_a_drift_that_was_measured_starts_a_training(place: Settings) -> None:
    """The look is a process of its own too; what it measured stands in the row."""
    ending(place, "published")
    schedule = place.schedule.model_copy(update={"train": "on_drift"})
    settings = place.model_copy(update={"schedule": schedule})
    with a_scheduler(settings, [NOW_MS]) as scheduler:
        assert scheduler.turn().waits_for == "a look at drift"
        until(lambda: scheduler.turn().is_training, "a training because of drift")
        until(lambda: not scheduler.turn().is_training, "its end")
    assert the_state(settings).result == "published"


def test_the_operators_training_is_waited_for(place: Settings) -> None:
    """Whoever holds the training lock trains; no second one is even tried."""
    ending(place, "published")
    with a_scheduler(place, [NOW_MS]) as scheduler:
        with one_at_a_time(place.data_dir / "train.lock", "a training"):
            assert scheduler.turn().waits_for == "a training runs"
        assert scheduler.turn().is_training
        until(lambda: not scheduler.turn().is_training, "the training's end")


def test_a_killed_scheduler_takes_its_training_along_and_the_next_one_starts_one(
    place: Settings, tmp_path: Path
) -> None:
    """SIGKILL: the training is gone, the row says so, and after a pause it is begun again, once."""
    ending(place, "never")
    file = tmp_path / "for-the-scheduler.json"
    file.write_text(place.model_dump_json())
    with subprocess.Popen([sys.executable, "-c", SCHEDULER, str(file)]) as killed:
        try:
            until(lambda: len(trainings(place)) == 1, "a training")
        finally:
            killed.send_signal(signal.SIGKILL)
    orphan = int(trainings(place)[0][0])
    until(lambda: not psutil.pid_exists(orphan), "the training to end with its scheduler")
    assert the_state(place).is_training
    ending(place, "published")
    clock_ms = [the_state(place).started_ms + 1]
    with a_scheduler(place, clock_ms) as scheduler:
        state = scheduler.turn()
        assert (state.result, state.n_failures) == ("interrupted", 1)
        assert len(trainings(place)) == 1
        clock_ms.append(state.next_ms)
        assert scheduler.turn().is_training
        until(lambda: not scheduler.turn().is_training, "the training's end")
    assert the_state(place).result == "published"
    assert len(trainings(place)) == 2


def test_a_scheduler_that_stops_ends_its_training(place: Settings) -> None:
    """In order, so that nothing trains on after `cluster down`."""
    ending(place, "never")
    with a_scheduler(place, [NOW_MS]) as scheduler:
        scheduler.turn()
        until(lambda: len(trainings(place)) == 1, "a training")
    assert not psutil.pid_exists(int(trainings(place)[0][0]))
