"""What `cluster status` says of scheduled trainings."""

from __future__ import annotations

from pathlib import Path

from cluster.schedule_facts import schedule_facts, schedule_line, schedule_problems
from recsys.learning_settings import ScheduleSettings
from recsys.settings import Settings
from recsys.stores.control.training_schedule import ScheduleState, TrainingSchedule

NOW_MS = 1_790_000_000_000
MINUTE_MS = 60_000


def facts_of(folder: Path, state: ScheduleState | None, train: str = "hourly") -> dict[str, object]:
    """The facts where a scheduler left `state`."""
    schedule = ScheduleSettings.model_validate({"train": train})
    settings = Settings(data_dir=folder, schedule=schedule)
    if state is not None:
        store = TrainingSchedule(settings.control_url)
        store.write(state)
        store.close()
    return schedule_facts(settings)


def test_nothing_is_said_where_nothing_is_scheduled(tmp_path: Path) -> None:
    """And before the scheduler's first turn, the cadence alone."""
    assert facts_of(tmp_path, ScheduleState(), "off") == {}
    assert schedule_line(facts_of(tmp_path / "new", None), NOW_MS) == "training: hourly"


def test_the_line_says_what_was_and_what_comes(tmp_path: Path) -> None:
    """The last training with its bundle, and when the next may begin."""
    state = ScheduleState(
        started_ms=NOW_MS - 30 * MINUTE_MS,
        ended_ms=NOW_MS - 20 * MINUTE_MS,
        result="published",
        detail="b-7",
        waits_for="its time",
        next_ms=NOW_MS + 30 * MINUTE_MS,
    )
    assert schedule_line(facts_of(tmp_path, state), NOW_MS) == (
        "training: hourly, the last was published 20 min ago (b-7), waits for its time, "
        "next in 30 min"
    )
    running = ScheduleState(started_ms=NOW_MS - 180 * MINUTE_MS)
    assert "one began 3 h ago" in schedule_line(facts_of(tmp_path, running), NOW_MS)


def test_failures_in_a_row_are_a_problem(tmp_path: Path) -> None:
    """A single one is tried again in silence."""
    failed = ScheduleState(ended_ms=1, result="failed", detail="no space", n_failures=1)
    assert schedule_problems(facts_of(tmp_path, failed)) == []
    often = ScheduleState(ended_ms=1, result="failed", detail="no space", n_failures=3)
    assert "no space" in schedule_problems(facts_of(tmp_path, often))[0]
