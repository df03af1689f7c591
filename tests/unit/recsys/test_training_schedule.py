"""The schedule's row: what is written is read, by other revisions too."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from recsys.errors import StoreError
from recsys.stores.training_schedule import ScheduleState, TrainingSchedule


def test_a_state_comes_back_as_written_and_none_before(tmp_path: Path) -> None:
    """One row, replaced."""
    store = TrainingSchedule(f"sqlite:///{tmp_path / 'control.sqlite'}")
    assert store.read() is None
    store.write(ScheduleState(since_ms=1))
    state = ScheduleState(2, 30, 4, 3, "refused", "the gate", 1, 0.25, 5, 6, "its time")
    store.write(state)
    assert store.read() == state
    assert state.is_training
    store.close()


def test_what_a_later_revision_added_is_passed_over(tmp_path: Path) -> None:
    """And what it left out has its default."""
    url = f"sqlite:///{tmp_path / 'control.sqlite'}"
    store = TrainingSchedule(url)
    store.write(ScheduleState())
    engine = create_engine(url)
    with engine.begin() as connection:
        row = '{"since_ms": 7, "colour": "blue"}'
        connection.execute(text("UPDATE training_schedule SET document = :row"), {"row": row})
    engine.dispose()
    assert store.read() == ScheduleState(since_ms=7)
    store.close()


def test_a_store_that_is_away_is_said(tmp_path: Path) -> None:
    """With the store's place."""
    (tmp_path / "control.sqlite").mkdir()
    store = TrainingSchedule(f"sqlite:///{tmp_path / 'control.sqlite'}")
    with pytest.raises(StoreError, match="control store"):
        store.write(ScheduleState())
    store.close()
