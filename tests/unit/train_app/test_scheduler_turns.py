"""The scheduler's turns where a store or the lake is away for a moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from recsys.errors import StoreError
from recsys.learning_settings import ScheduleSettings
from recsys.settings import Settings
from recsys.stores.control.training_schedule import ScheduleState, TrainingSchedule
from train_app.scheduling.due import MINUTE_MS, Seen
from train_app.scheduling.leashed_job import LeashedJob
from train_app.scheduling.scheduler import Scheduler
from train_app.scheduling.training_sights import Sights

NOW_MS = 1_790_000_000_000


class EndedJob(LeashedJob):
    """A training whose end is told, without a process."""

    def __init__(self, verb: Sequence[str], code: int | None = None) -> None:
        self.verb = verb[0]
        self.code = code

    def exit_code(self) -> int | None:
        return self.code

    def document(self) -> dict[str, str]:
        return {"bundle_id": "b-new"}

    def last_line(self) -> str:
        return "no space"

    def end(self) -> None:
        self.code = -15 if self.code is None else self.code


class Place:
    """A scheduler whose trainings end when a test says so, and what it left in the row."""

    def __init__(self, folder: Path) -> None:
        schedule = ScheduleSettings(train="continuous", min_new_engagements=5, rest_minutes=0)
        settings = Settings(data_dir=folder, schedule=schedule)
        self.jobs: list[EndedJob] = []
        self.store = TrainingSchedule(settings.control_url)
        self.scheduler = Scheduler(settings, self._start, lambda: NOW_MS)

    def begin(self) -> EndedJob:
        """A training that runs."""
        self.store.write(ScheduleState(since_ms=NOW_MS - MINUTE_MS))
        assert self.scheduler.turn().is_training
        return self.jobs[-1]

    def row(self) -> ScheduleState:
        state = self.store.read()
        assert state is not None
        return state

    def take_turns(self, n_turns: int) -> None:
        """As its thread does."""
        self.scheduler.run(Turns(n_turns), poll_s=0.0)

    def _start(self, verb: Sequence[str]) -> LeashedJob:
        self.jobs.append(EndedJob(verb))
        return self.jobs[-1]


class Turns(threading.Event):
    """Is set after so many turns."""

    def __init__(self, n_turns: int) -> None:
        super().__init__()
        self._n_left = n_turns

    def wait(self, timeout: float | None = None) -> bool:
        self._n_left -= 1
        if self._n_left == 0:
            self.set()
        return self.is_set()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Place]:
    """A lake of ten engagements."""
    monkeypatch.setattr(Sights, "seen", lambda self: Seen(10))
    made = Place(tmp_path)
    yield made
    made.store.close()


def fail_sights(monkeypatch: pytest.MonkeyPatch, n_failures: int) -> None:
    """The next looks at the lake fail."""
    left = [n_failures]

    def seen(self: Sights) -> Seen:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreError("the lake is away")
        return Seen(10)

    monkeypatch.setattr(Sights, "seen", seen)


def fail_next_write(monkeypatch: pytest.MonkeyPatch, after_writing: bool) -> None:
    """The next write fails, or only seems to; those after it do not."""
    write, failed = TrainingSchedule.write, []

    def fail_once(self: TrainingSchedule, state: ScheduleState) -> None:
        if failed:
            write(self, state)
            return
        failed.append(state)
        if after_writing:
            write(self, state)
        raise StoreError("the control store is away")

    monkeypatch.setattr(TrainingSchedule, "write", fail_once)


@pytest.mark.parametrize("after_writing", [False, True])
@pytest.mark.parametrize(
    ("code", "result", "detail", "n_failures"),
    [(0, "published", "b-new", 0), (1, "failed", "no space", 1)],
)
def test_an_end_that_could_not_be_written_is_written_in_the_next_turn(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    after_writing: bool,
    code: int,
    result: str,
    detail: str,
    n_failures: int,
) -> None:
    """It is counted once and not taken for an interruption."""
    place.begin().code = code
    fail_next_write(monkeypatch, after_writing)
    with pytest.raises(StoreError):
        place.scheduler.turn()
    place.scheduler.turn()
    row = place.row()
    assert (row.result, row.detail, row.n_failures) == (result, detail, n_failures)
    assert not row.is_training
    assert len(place.jobs) == 1


def test_an_end_stands_in_the_row_though_the_lake_cannot_be_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written before the scheduler looks."""
    place.begin().code = 0
    fail_sights(monkeypatch, 1)
    with pytest.raises(StoreError):
        place.scheduler.turn()
    assert (place.row().result, place.row().is_training) == ("published", False)
    assert place.scheduler.turn().result == "published"
    assert len(place.jobs) == 1


def test_a_scheduler_that_stops_writes_an_end_it_had_not_seen(place: Place) -> None:
    """The next scheduler would take it for an interruption."""
    place.begin().code = 0
    place.scheduler.stop()
    assert place.row().result == "published"


def test_a_problem_is_in_the_row_and_once_in_the_log(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even before the schedule has begun, which it then does as if nothing had been."""
    fail_sights(monkeypatch, 3)
    with caplog.at_level(logging.INFO, "train_app.scheduling"):
        place.take_turns(3)
        row = place.row()
        assert row.waits_for == "this to pass: the lake is away"
        assert place.scheduler.problem == "the lake is away"
        place.take_turns(1)
    assert [one.levelname for one in caplog.records] == ["WARNING", "INFO"]
    assert place.row().since_ms == NOW_MS
    assert place.row().known_engagements == 10
    assert place.row().waits_for == "0 new engagements, 5 wanted"


def test_a_training_that_cannot_be_started_has_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its reason, instead of an interruption."""

    def start(self: Place, verb: Sequence[str]) -> LeashedJob:
        raise OSError("no more processes")

    monkeypatch.setattr(place.scheduler, "_start_job", lambda verb: start(place, verb))
    place.store.write(ScheduleState(since_ms=NOW_MS - MINUTE_MS))
    state = place.scheduler.turn()
    assert (state.result, state.n_failures) == ("failed", 1)
    assert "no more processes" in state.detail
