"""The schedule's row: what is written is read, by other revisions too."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from recsys.stores.control.training_schedule import ScheduleState, TrainingSchedule


def test_a_state_comes_back_as_written_and_none_before(control_url: str) -> None:
    """One row, replaced."""
    store = TrainingSchedule(control_url)
    assert store.read() is None
    store.write(ScheduleState(since_ms=1))
    state = ScheduleState(2, 30, 4, 3, "refused", "the gate", 1, 0.25, 5, 6, "its time")
    store.write(state)
    assert store.read() == state
    assert state.is_training
    store.close()


def test_what_a_later_revision_added_is_passed_over(control_url: str) -> None:
    """And what it left out has its default."""
    url = control_url
    store = TrainingSchedule(url)
    store.write(ScheduleState())
    engine = create_engine(url)
    with engine.begin() as connection:
        row = '{"since_ms": 7, "colour": "blue"}'
        connection.execute(text("UPDATE training_schedule SET document = :row"), {"row": row})
    engine.dispose()
    assert store.read() == ScheduleState(since_ms=7)
    store.close()
