"""What the scheduler has done and will do next: one row in the control store.

The only writer is `train_app.scheduling`; the operator's status reads it. When a training is due
is decided elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

TrainingResult = Literal["", "published", "refused", "failed", "killed", "interrupted"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The schedule's memory; times in ms since 1970, 0 is never."""

    since_ms: int = 0
    """When the schedule began; what was there before is the operator's."""
    known_engagements: int = 0
    """Engagements in the lake when the last training, or the schedule, began."""
    started_ms: int = 0
    ended_ms: int = 0
    """Before `started_ms` while a training runs."""
    result: TrainingResult = ""
    """How the last training ended."""
    detail: str = ""
    """Its bundle, or why there is none."""
    n_failures: int = 0
    """Trainings that did not come to an end, one after the other."""
    drift: float = 0.0
    """The largest index of a feature when it was last looked at."""
    drift_checked_ms: int = 0
    next_ms: int = 0
    """When the next training may begin; 0 where that depends on what happens."""
    waits_for: str = ""
    """Why none runs now."""

    @property
    def is_training(self) -> bool:
        """Whether a training was begun and its end is not known."""
        return self.started_ms > self.ended_ms


class TrainingSchedule:
    """The row of the schedule.

    Args:
        url: SQLAlchemy URL of the control store.
    """

    def __init__(self, url: str) -> None:
        from recsys.stores.control import control_tables, schedule_tables

        self._tables = schedule_tables
        self._row = schedule_tables.schedule
        self._writer = control_tables.open_engine(url, writes=True)
        self._reader = control_tables.open_engine(url, writes=False)

    def read(self) -> ScheduleState | None:
        """What the scheduler last wrote, `None` if it never did.

        Raises:
            StoreError: the store is away.
        """

        def find() -> str | None:
            if not self._tables.has_schedule(self._reader):
                return None
            with self._reader.begin() as connection:
                found: str | None = connection.execute(self._row.select()).scalars(1).first()
                return found

        document = self._reaching(find)
        return None if document is None else _state(json.loads(document))

    def write(self, state: ScheduleState) -> None:
        """Replace the row.

        Raises:
            StoreError: the store is away.
        """

        def replace() -> None:
            self._tables.create_schedule(self._writer)
            with self._writer.begin() as connection:
                connection.execute(self._row.delete())
                connection.execute(
                    self._row.insert().values(id=1, document=json.dumps(asdict(state)))
                )

        self._reaching(replace)

    def close(self) -> None:
        """Give the connections back."""
        self._writer.dispose()
        self._reader.dispose()

    def _reaching(self, run: Callable[[], T]) -> T:
        from recsys.stores.control.control_tables import reaching

        return reaching(self._writer.url, run)


def _state(document: dict[str, Any]) -> ScheduleState:
    """The state of a row that a later revision may have written more into."""
    known = {one.name for one in fields(ScheduleState)}
    return ScheduleState(**{name: value for name, value in document.items() if name in known})
