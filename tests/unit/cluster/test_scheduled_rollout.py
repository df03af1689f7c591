"""What the schedule published is rolled out once, by the plan that the settings name."""

from __future__ import annotations

import pytest

from cluster.rollouts.driving.scheduled_rollout import ScheduledRollouts, due_bundle
from recsys.errors import FeatureSchemaMismatch, StoreError
from recsys.stores.training_schedule import ScheduleState

PUBLISHED = ScheduleState(result="published", detail="b2")


@pytest.mark.parametrize(
    ("state", "stable_id", "tried", "expected"),
    [
        (PUBLISHED, "b1", [], "b2"),
        (PUBLISHED, "b1", ["b0", "b1"], "b2"),
        (PUBLISHED, "b1", ["b2"], None),
        (PUBLISHED, "b2", [], None),
        (None, "b1", [], None),
        (ScheduleState(result="refused", detail="gate"), "b1", [], None),
        (ScheduleState(), "b1", [], None),
    ],
)
def test_only_a_new_bundle_of_the_schedule_is_due(
    state: ScheduleState | None, stable_id: str, tried: list[str], expected: str | None
) -> None:
    """Never one that is stable, that was tried before, or that the gate refused."""
    assert due_bundle(state, stable_id, tried) == expected


class _World:
    """A schedule, a registry of rollouts, and somebody who starts them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.state: ScheduleState | None = PUBLISHED
        self.stable: str | None = "b1"
        self.started: list[str] = []
        self.n_listed = 0
        self.error = error
        self.scheduled = ScheduledRollouts(
            lambda: self.state, lambda: self.stable, self.tried, self.start
        )

    def tried(self) -> list[str]:
        self.n_listed += 1
        return self.started

    def start(self, bundle_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.started.append(bundle_id)


def test_a_bundle_is_started_once_and_the_next_one_again() -> None:
    """Looks in between cost no list of all rollouts."""
    world = _World()
    assert world.scheduled.begin()
    assert [world.scheduled.begin() for _ in range(5)] == [False] * 5
    assert world.n_listed == 2
    world.state = ScheduleState(result="published", detail="b3")
    assert world.scheduled.begin()
    assert world.started == ["b2", "b3"]


def test_a_bundle_that_cannot_start_is_left_until_there_is_another() -> None:
    """Trained on another schema, say: it is named in the log, and nothing spins."""
    world = _World(FeatureSchemaMismatch("other features"))
    assert not world.scheduled.begin()
    assert not world.scheduled.begin()
    assert world.n_listed == 1


def test_without_a_stable_bundle_it_waits_for_one() -> None:
    """The first bundle becomes stable without a rollout; until then nothing is given up."""
    world = _World()
    world.stable = None
    assert not world.scheduled.begin()
    world.stable = "b1"
    assert world.scheduled.begin()


def test_a_store_that_is_away_is_tried_again() -> None:
    """Nothing is given up for want of a store."""
    world = _World(StoreError("away"))
    for _ in range(2):
        with pytest.raises(StoreError):
            world.scheduled.begin()
    world.error = None
    assert world.scheduled.begin()
