"""What the schedule published is rolled out once, by the plan that the settings name."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.console import Console
from cluster.local.up import up
from cluster.rollouts.deciding.rollout_record import Rollout
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.driving.scheduled_rollout import (
    ScheduledRollouts,
    due_bundle,
    scheduled_rollouts,
)
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import ConfigError, FeatureSchemaMismatch, FleetError, StoreError
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from recsys.stores.control.training_schedule import ScheduleState

PUBLISHED = ScheduleState(result="published", detail="b2", ended_ms=100)


def a_rollout(bundle_id: str, stable_id: str, started_ms: int = 50) -> Rollout:
    """One that is over."""
    residents = (stable_id,)
    return Rollout(
        "r", bundle_id, stable_id, "fast", (0.1,), residents, residents, started_ms, 1_000, 1
    )


@pytest.mark.parametrize(
    ("state", "stable_id", "tried", "expected"),
    [
        (PUBLISHED, "b1", [], "b2"),
        (PUBLISHED, "b1", [a_rollout("b1", "b0")], "b2"),
        (PUBLISHED, "b1", [a_rollout("b2", "b0")], None),
        (PUBLISHED, "b3", [a_rollout("b3", "b2")], None),
        (PUBLISHED, "b3", [a_rollout("b3", "b0", 101)], None),
        (PUBLISHED, "b2", [], None),
        (None, "b1", [], None),
        (ScheduleState(result="refused", detail="gate"), "b1", [], None),
        (ScheduleState(), "b1", [], None),
    ],
)
def test_only_a_new_bundle_of_the_schedule_is_due(
    state: ScheduleState | None, stable_id: str, tried: list[Rollout], expected: str | None
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

    def tried(self) -> list[Rollout]:
        self.n_listed += 1
        return [a_rollout(bundle_id, "b1") for bundle_id in self.started]

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
    world.state = ScheduleState(result="published", detail="b3", ended_ms=200)
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


def test_a_fleet_that_is_not_there_yet_refuses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and the rollout begins with the first look that finds a gateway."""
    world = _World(FleetError("no gateway reports"))
    with caplog.at_level(logging.WARNING):
        assert [world.scheduled.begin() for _ in range(3)] == [False] * 3
    assert len(caplog.records) == 1
    world.error = None
    assert world.scheduled.begin()
    assert world.started == ["b2"]


def test_a_file_that_cannot_be_read_does_not_escape() -> None:
    """It is a refusal of this bundle, and the controller goes on."""
    world = _World(OSError("stale file handle"))
    assert [world.scheduled.begin() for _ in range(2)] == [False, False]
    assert world.n_listed == 1


@pytest.mark.parametrize("name", ["standrad", "instant", "no/such.toml"])
def test_a_plan_that_cannot_be_followed_stops_up_and_no_controller(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`cluster up` refuses it before anything starts; a controller drives other rollouts."""
    settings = Settings.model_validate({"data_dir": tmp_path, "schedule": {"rollout": name}})
    writer, reader = ControlWriter(settings.control_url), ControlReader(settings.control_url)
    operator = Operator("c", lambda: 0, lambda seconds: None, lambda line: None)
    assert scheduled_rollouts(settings, writer, reader, operator)() is False
    assert "schedule.rollout is not followed" in caplog.text
    found = CliRunner().invoke(up, obj=Console(settings))
    assert isinstance(found.exception, ConfigError)
    assert found.exception.exit_code == 2
    assert list(tmp_path.iterdir()) == []
