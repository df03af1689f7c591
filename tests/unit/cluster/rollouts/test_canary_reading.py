"""`cluster canary status`, `explain` and `simulate` on a control store, while nothing runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.console import Console
from cluster.rollouts.deciding.rollout_plan import built_in
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.deciding.rollout_turn import Turn, Verb, decide
from cluster.rollouts.driving.rollout_runner import RolloutRunner
from cluster.rollouts.simulation.simulated_rollout import Looks
from cluster.rollouts.simulation.traffic_shape import TrafficShape
from cluster.rollouts.storing.control_writer import ControlWriter
from cluster.rollouts.verbs.canary_commands import canary
from cluster.rollouts.verbs.canary_simulate import shortage
from cluster.who_and_when import now_ms
from recsys.errors import (
    AbortedByEvidence,
    ConfigError,
    FleetError,
    RecsysError,
    RolloutConflict,
)
from recsys.settings import Settings


def run(folder: Path, *arguments: str, as_json: bool = True) -> Result:
    """The command, as `cluster canary ARGUMENTS`."""
    console = Console(Settings(data_dir=folder), as_json=as_json)
    return CliRunner().invoke(canary, list(arguments), obj=console)


def document(result: Result) -> Any:
    """The one JSON document on stdout."""
    return json.loads(result.stdout)


def put(folder: Path, driven_ms: int, **changes: Any) -> None:
    """Record one rollout of plan fast at its first step."""
    plan = built_in("fast")
    values: dict[str, Any] = {"phase": Phase.CANARY, "plan": plan, "opened_ms": driven_ms}
    rollout = Rollout(
        "r1",
        "b2",
        "b1",
        plan.name,
        plan.shares,
        ("b1",),
        ("b2", "b1"),
        driven_ms,
        60_000,
        driven_ms,
        **values | changes,
    )
    settings = Settings(data_dir=folder)
    ControlWriter(settings.control_url).start_rollout(rollout, "c1", now_ms(), driven_ms=driven_ms)


def test_status_shows_a_rollout_that_no_controller_drives(tmp_path: Path) -> None:
    """And waiting for it is refused with what to do."""
    put(tmp_path, now_ms() - 60_000)
    seen = document(run(tmp_path, "status"))
    assert (seen["is_abandoned"], seen["view"]["steps"][0]["state"]) == (True, "present")
    assert "nobody drives it" in run(tmp_path, "status", as_json=False).stdout
    for flag in ("--wait", "--watch"):
        assert isinstance(run(tmp_path, "status", flag, as_json=False).exception, FleetError)


def test_watching_an_ended_rollout_ends_with_its_exit_code(tmp_path: Path) -> None:
    """In lines, where stdout is no terminal."""
    put(tmp_path, now_ms(), phase=Phase.ABORTED, reason=Reason.EVIDENCE, message="errors")
    result = run(tmp_path, "status", "--watch", as_json=False)
    assert isinstance(result.exception, AbortedByEvidence)
    assert "aborted: errors" in result.stdout


def test_explaining_tells_the_recorded_turns(tmp_path: Path) -> None:
    """And a rollout that does not exist is bad usage."""
    assert isinstance(run(tmp_path, "explain").exception, ConfigError)
    put(tmp_path, now_ms())
    told = document(run(tmp_path, "explain"))
    assert (told["n_turns"], told["story"][0]["phase"]) == (1, "canary")
    assert "1 recorded turns" in run(tmp_path, "explain", "r1", as_json=False).stdout
    assert isinstance(run(tmp_path, "explain", "r2").exception, ConfigError)


def test_a_recorded_rollout_is_decided_again(tmp_path: Path) -> None:
    """The newest one or the one that is named; a rollout that does not exist is bad usage."""
    assert isinstance(run(tmp_path, "history", "--replay").exception, ConfigError)
    put(tmp_path, now_ms())
    # Its beginning was not decided, so nothing can be said of it.
    assert document(run(tmp_path, "history", "--replay"))["is_same"] is None
    assert "no turn yet" in run(tmp_path, "history", "--replay", as_json=False).stdout
    writer = ControlWriter(Settings(data_dir=tmp_path).control_url)
    stored = writer.rollouts()[-1]
    turn = Turn(Verb.PAUSE, now_ms(), message="look first")
    paused = decide(stored.rollout, turn)
    writer.save_rollout(paused, stored.revision, "c1", now_ms(), turn=turn)
    for words in (["--replay"], ["--replay", "r1"]):
        found = document(run(tmp_path, "history", *words))
        assert (found["rollout_id"], found["n_turns"], found["is_same"]) == ("r1", 2, True)
    assert isinstance(run(tmp_path, "history", "--replay", "r2").exception, ConfigError)


def test_a_record_that_is_decided_otherwise_now_is_exit_one_with_its_turn(tmp_path: Path) -> None:
    """An abort whose record was changed into a promotion."""
    put(tmp_path, now_ms())
    writer = ControlWriter(Settings(data_dir=tmp_path).control_url)
    stored = writer.rollouts()[-1]
    changed = replace(stored.rollout, phase=Phase.PROMOTED, message="changed by hand")
    turn = Turn(Verb.PAUSE, now_ms(), message="look first")
    writer.save_rollout(changed, stored.revision, "c1", now_ms(), turn=turn)
    result = run(tmp_path, "history", "--replay")
    assert isinstance(result.exception, RecsysError)
    assert result.exception.exit_code == 1
    found = document(result)
    assert [one["number"] for one in found["mismatches"]] == [2]
    assert found["mismatches"][0]["replayed"]["phase"] == "paused"
    text = run(tmp_path, "history", "--replay", as_json=False).stdout
    assert "turn 2: recorded promoted at step 1 (changed by hand), now paused" in text


def test_steering_nothing_is_somebody_elses_change(tmp_path: Path) -> None:
    """Exit 4 for every word."""
    for words in (["pause"], ["resume"], ["step"], ["promote", "--full"], ["abort"]):
        assert isinstance(run(tmp_path, *words).exception, RolloutConflict), words


def test_simulating_prints_both_effects_under_every_rule(tmp_path: Path) -> None:
    """From options where nothing was counted; asking for the log then is bad usage."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[steps]]\nshare = 0.5\nmin_s = 10.0\nmetrics = ["ctr"]\n')
    words = ["simulate", "--plan", str(plan), "--rollouts", "1", "--looks", "2", "--users", "200"]
    found = document(run(tmp_path, *words))
    assert found["traffic_from"] == "from options"
    assert [report["effect"] for report in found["reports"]] == ["none"] * 4 + ["ctr=-0.05"] * 4
    assert isinstance(run(tmp_path, *words, "--from-log").exception, ConfigError)
    assert isinstance(run(tmp_path, "simulate", "--plan", "instant").exception, ConfigError)


def test_a_step_that_its_traffic_cannot_fill_is_named() -> None:
    """Else the table says held, and nobody knows why."""
    looks = Looks(every_s=2.0, until_s=300.0)
    fast = built_in("fast")
    short = shortage(fast, TrafficShape(requests_per_minute=600), looks)
    assert short.startswith("step 1 asks for 200 requests of the canary, which gets 30 a minute")
    assert shortage(fast, TrafficShape(requests_per_minute=6_000), looks) == ""


@pytest.mark.parametrize("option", ["--wait", "--watch"])
def test_a_start_that_waits_tells_how_the_rollout_ended(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal to draw on, watching is waiting."""
    put(tmp_path, now_ms(), phase=Phase.PROMOTED, is_settled=True, message="every gateway follows")
    (stored,) = ControlWriter(Settings(data_dir=tmp_path).control_url).rollouts()
    begun = replace(stored.rollout, phase=Phase.CANARY, message="every replica is ready")
    assert stored.rollout.is_closed and not begun.is_closed
    monkeypatch.setattr(RolloutRunner, "start", lambda runner, bundle_id, plan: begun)
    found = document(run(tmp_path, "start", "b2", "--plan", "fast", option))
    assert found["rollout"]["phase"] == "promoted"
    found = document(run(tmp_path, "start", "b2", "--plan", "fast"))
    assert found["rollout"]["phase"] == "canary"
