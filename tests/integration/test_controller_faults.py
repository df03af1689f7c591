"""Whatever dies, whenever: the controller killed, doubled or without its store at every call."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cluster.rollouts.deciding.rollout_turn import replay
from cluster.rollouts.driving import controller as controller_module
from cluster.rollouts.driving.controller import Controller
from cluster.rollouts.driving.controller_lease import LEASE_MS
from recsys.errors import StoreError
from recsys.evidence.comparison import Verdict
from recsys.stores.control import control_tables
from tests.rollouts_for_tests import (
    PASSING,
    SHADOWED,
    SHORT,
    Faults,
    Fleet,
    Killed,
    a_fleet,
    judged,
    shadow_sums,
    without_waits,
)

pytestmark = pytest.mark.integration
READS = frozenset({"open_rollout", "view", "readiness", "check", "samples", "shadow"})
"""Calls that leave the stores as they are, so that a kill after one is a kill before it."""
WAYS = {
    "promoted": (SHORT, PASSING, shadow_sums(12)),
    "promoted in two steps": (SHADOWED, PASSING, shadow_sums(12)),
    "failed at a step": (SHORT, (Verdict.FAIL,), shadow_sums(12)),
    "failed as a shadow": (SHORT, PASSING, shadow_sums(30, n_failed=20)),
}


SHORT_WAYS = [way for way, (plan, _, _) in WAYS.items() if plan is SHORT]


@pytest.fixture(autouse=True)
def _verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "judge_step", judged)
    monkeypatch.setattr(control_tables, "open_engine", without_waits)


def a_started(folder: Path, way: str) -> Fleet:
    """A fleet with a rollout whose answers are compared first, and that goes this way."""
    plan, verdicts, copies = WAYS[way]
    fleet = a_fleet(folder, *verdicts)
    fleet.evidence.copies = copies
    fleet.start(plan)
    return fleet


def calm(folder: Path, way: str, faults: Faults | None = None) -> tuple[Any, ...]:
    """How it ends where nothing dies."""
    fleet = a_started(folder, way)
    fleet.run(fleet.controller("calm", faults))
    return fleet.outcome()


def check(fleet: Fleet, expected: tuple[Any, ...]) -> None:
    """It ended as it would have, no gateway saw an older plan, and its turns replay."""
    assert fleet.outcome() == expected
    assert fleet.epochs == sorted(fleet.epochs)
    assert replay(fleet.writer.turns("r1")) == ()


def content(fleet: Fleet) -> str:
    """All that a killed controller leaves behind."""
    file = fleet.url.removeprefix("sqlite:///")
    connection = sqlite3.connect(file)
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


def test_what_is_called_a_read_leaves_the_store_as_it_is(tmp_path: Path) -> None:
    """So every distinct state that a kill can leave is one after a write."""
    fleet = a_started(tmp_path, "promoted")
    kept = [""]

    def before(number: int, name: str) -> None:
        kept[0] = content(fleet)

    def after(number: int, name: str) -> None:
        assert (name not in READS) or content(fleet) == kept[0]

    faults = Faults(before, after)
    fleet.run(fleet.controller("watched", faults))
    assert set(faults.names) >= READS


@pytest.mark.parametrize("way", list(WAYS)[1:])
def test_a_controller_killed_at_any_call_changes_nothing_in_the_end(
    tmp_path: Path, way: str
) -> None:
    """Before its first call, and after every one that writes; the next ends in the same state."""
    calls = Faults()
    expected = calm(tmp_path / "calm", way, calls)
    writes = [at for at, name in enumerate(calls.names, start=1) if name not in READS]
    for number in [0, *writes]:

        def kill(at: int, name: str, number: int = number) -> None:
            if at >= number:
                raise Killed

        fleet = a_started(tmp_path / str(number), way)
        faults = Faults(before=kill) if number == 0 else Faults(after=kill)
        with pytest.raises(Killed):
            fleet.run(fleet.controller("dying", faults))
        fleet.poll(LEASE_MS / 1000 + 1)
        fleet.run(fleet.controller("next"))
        check(fleet, expected)


def unleashed(controller: Controller) -> Controller:
    """A controller that believes it holds the lease and that every rollout is its own."""
    controller._has_lease = lambda: True  # type: ignore[method-assign]
    controller._is_mine = lambda stored: True  # type: ignore[method-assign]
    return controller


@pytest.mark.parametrize("way", SHORT_WAYS)
@pytest.mark.parametrize("n_turns", [1, 2, 3])
def test_a_second_controller_that_acts_within_every_call_of_the_first_changes_nothing(
    tmp_path: Path, way: str, n_turns: int
) -> None:
    """Both believe that they hold the lease, and the first goes on with what it saw before."""
    expected = calm(tmp_path / "calm", way)
    fleet = a_started(tmp_path / "two", way)
    second = unleashed(fleet.controller("two"))

    def act(number: int, name: str) -> None:
        for _ in range(n_turns):
            second.turn()
            fleet.poll()

    first = unleashed(fleet.controller("one", Faults(before=act)))
    fleet.run(first)
    check(fleet, expected)


@pytest.mark.parametrize("way", SHORT_WAYS)
def test_a_second_controller_that_takes_over_within_any_one_call_changes_nothing(
    tmp_path: Path, way: str
) -> None:
    """It drives the rollout to its end while the first is within this call."""
    calls = Faults()
    expected = calm(tmp_path / "calm", way, calls)
    writes = [at for at, name in enumerate(calls.names, start=1) if name not in READS]
    for number in writes[1:]:
        fleet = a_started(tmp_path / str(number), way)
        second = unleashed(fleet.controller("two"))

        def take_over(
            at: int, name: str, number: int = number, fleet: Fleet = fleet, other: Any = second
        ) -> None:
            if at == number:
                fleet.run(other)

        fleet.run(unleashed(fleet.controller("one", Faults(before=take_over))))
        check(fleet, expected)


@pytest.mark.parametrize("way", SHORT_WAYS)
def test_a_control_store_that_is_away_for_a_minute_in_any_phase_is_waited_for(
    tmp_path: Path, way: str
) -> None:
    """Gateways keep their plan, and the rollout goes on where it was."""
    turns = Faults()
    expected = calm(tmp_path / "calm", way, turns)
    n_turns = turns.names.count("open_rollout")
    for number in range(n_turns):
        fleet = a_started(tmp_path / str(number), way)

        def refuse(at: int, name: str, fleet: Fleet = fleet) -> None:
            if fleet.now_ms < fleet.away_until_ms and name not in {"check", "samples", "shadow"}:
                raise StoreError("control store cannot be used: connection refused")

        controller = fleet.controller("one", Faults(before=refuse))
        fleet.run(controller, turns=number)
        fleet.away_until_ms = fleet.now_ms + 60_000
        while fleet.now_ms < fleet.away_until_ms:
            with pytest.raises(StoreError, match="connection refused"):
                controller.turn()
            fleet.poll(20)
        fleet.run(controller)
        check(fleet, expected)
