"""What makes a cluster healthy, and what `cluster status` shows where nothing runs."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.__main__ import run
from cluster.console import as_text
from cluster.data_facts import GAP_ALARM_MS, worker_facts
from cluster.local.run_files import (
    RunFiles,
    RunState,
    hold_lock,
    is_locked,
    read_state,
    write_document,
    write_state,
)
from cluster.local.start_watch import RunWasKilled, follow_start, last_line
from cluster.status import page
from cluster.status_facts import StatusFacts, gather, problems_of
from recsys.errors import FleetError, WaitTimeout
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.control.membership import Member, Membership
from recsys.stores.log.event_log import SqliteEventLog


def an_application(status: str = "RUNNING", message: str = "") -> dict[str, Any]:
    """One application of Serve's status."""
    deployment = {"status": "HEALTHY", "message": message, "replicas": {"RUNNING": 1}}
    return {"status": status, "message": "", "deployments": {"Gateway": deployment}}


def a_replica(state: str = "ready", reason: str = "") -> dict[str, Any]:
    """One readiness row."""
    return {
        "replica_id": "g1",
        "stage": "gateway",
        "bundle_id": "b1",
        "state": state,
        "reason": reason,
        "plan_epoch": 3,
        "age_ms": 200,
    }


def a_worker(**changes: Any) -> dict[str, Any]:
    """What one worker's replicas say."""
    return {
        "n_replicas": 1,
        "n_expected": 1,
        "lag_records": 0,
        "freshness_s": 0.0,
        "n_records": 10,
        "n_bad": 0,
        "n_repeated": 0,
        "n_missed": 0,
        "missed_ms": 0,
        "problems": [],
        "n_gone": 0,
    } | changes


def a_log(**changes: Any) -> dict[str, Any]:
    """What is said of the log."""
    ends = {0: 6, 1: 4}
    log = {"backend": "sqlite", "n_events": 10, "end_offsets": ends, "lag_events": 0, "lag_s": 0.0}
    return log | changes


def healthy_facts() -> StatusFacts:
    """A cluster with nothing to complain of."""
    arms = [{"variant": "stable", "bundle_id": "b1", "share": 1.0}]
    return StatusFacts(
        is_running=True,
        run={"phase": "serving", "step": "applications run"},
        serve={"age_ms": 900, "applications": {"recommend": an_application()}},
        control={
            "plan": {"epoch": 3, "salt": "s", "arms": arms},
            "aliases": {"stable": "b1"},
            "rollout": None,
            "replicas": [a_replica()],
        },
        log=a_log(),
        disk={"spool_files": 0, "spool_bytes": 0, "set_aside": []},
        workers={"archiver": a_worker(), "features": a_worker(), "evidence": a_worker()},
        ready={"status": 200},
    )


WORDS = ("healthy", "epoch 3: stable b1 100%", "rollout: none", "applications")


def shown(facts: StatusFacts) -> str:
    """The page as plain text."""
    return as_text(page(facts, problems_of(facts)))


def test_a_cluster_with_everything_in_order_is_healthy() -> None:
    """No problem, and the page names plan, bundle and lag."""
    assert problems_of(healthy_facts()) == []
    text = shown(healthy_facts())
    assert "healthy" in text
    assert "epoch 3: stable b1 100%" in text
    assert "stable = b1" in text
    assert "log: sqlite, 10 events (partitions end at 6, 4)" in text
    assert "archiver │   1 of 1" in text


def test_a_live_page_begins_with_what_says_most() -> None:
    """A terminal that is too short for all of it cuts the tables off."""
    lines = as_text(page(healthy_facts(), [], is_live=True)).splitlines()
    assert lines[0] == "healthy"
    places = [next(n for n, line in enumerate(lines) if word in line) for word in WORDS]
    assert places == sorted(places)
    assert shown(healthy_facts()).splitlines()[-1] == "healthy"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"is_running": False}, "nothing is running"),
        ({"is_running": False, "run": {"error": "raylet (7) died"}}, "raylet (7) died"),
        ({"run": {"phase": "starting", "step": "starting ray"}}, "starting ray"),
        ({"serve": {}}, "has not reported"),
        ({"serve": {"age_ms": 60_000, "applications": {}}}, "60 s ago"),
        (
            {
                "serve": {
                    "age_ms": 1,
                    "applications": {"workers": an_application("UNHEALTHY", "a\nboom")},
                }
            },
            "application workers is UNHEALTHY: boom",
        ),
        ({"ready": {"status": 503, "detail": "no plan"}}, "no plan"),
        ({"control": {"replicas": [a_replica("failed", "bad sha")]}}, "bad sha"),
        ({"log": a_log(lag_events=9, lag_s=42.0)}, "42 s behind"),
        ({"workers": {"archiver": a_worker(n_replicas=0)}}, "no replica of the worker archiver"),
        ({"workers": {"archiver": a_worker(n_missed=7)}}, "7 records were gone from the log"),
        ({"workers": {"evidence": a_worker(freshness_s=300.0)}}, "300 s behind the log"),
        ({"workers": {"features": a_worker(problems=["disk is gone"])}}, "features: disk is gone"),
        ({"disk": {"set_aside": ["var/events.sqlite.corrupt-1"]}}, "was set aside and holds"),
        ({"log": {}, "disk": {"spool_bytes": 3 * 1024**2, "spool_files": 1}}, "3.0 MiB of events"),
        ({"unreadable": ("events.sqlite is damaged",)}, "events.sqlite is damaged"),
    ],
)
def test_each_fault_is_one_sentence(change: dict[str, Any], expected: str) -> None:
    """Whatever is wrong is named, and shown."""
    facts = replace(healthy_facts(), **change)
    problems = problems_of(facts)
    assert len(problems) == 1
    assert expected in problems[0]
    assert "problem:" in shown(facts)


def test_a_rollout_with_steps_needs_a_controller_and_nothing_else_does() -> None:
    """A lease that ran out is nobody's; the status says who drives and when they were heard."""
    held = {"owner": "controller@here:1", "age_ms": 900, "is_held": True}
    gone = held | {"age_ms": 12_000, "is_held": False}
    rollout = {
        "rollout_id": "r1",
        "bundle_id": "b2",
        "phase": "canary",
        "message": "step 1",
        "steps": [0.05],
    }

    def facts(lease: dict[str, Any] | None, steps: list[float]) -> StatusFacts:
        control = dict(healthy_facts().control)
        control |= {"controller": lease, "rollout": rollout | {"steps": steps}}
        return replace(healthy_facts(), control=control)

    assert problems_of(facts(held, [0.05])) == []
    assert problems_of(facts(None, [])) == []
    for lease, said in ((gone, "heard 12 s ago"), (None, "there was none")):
        (problem,) = problems_of(facts(lease, [0.05]))
        assert "no controller drives rollout r1" in problem
        assert said in problem
    assert "controller@here:1 drives rollouts" in shown(facts(held, [0.05]))


def test_running_experiments_are_named_beside_the_plan() -> None:
    """What a plan of all to stable does not say."""
    facts = healthy_facts()
    running = {"experiment_id": "wide", "layer": "bundle", "share": 0.5}
    control = {**facts.control, "experiments": [running]}
    assert "experiment: wide, 50% of the bundle layer" in shown(replace(facts, control=control))
    assert "experiment" not in shown(facts)


def test_a_short_lag_is_no_problem() -> None:
    """Events are on their way all the time."""
    lagging = a_worker(lag_records=9, freshness_s=4.0)
    facts = replace(
        healthy_facts(), log=a_log(lag_events=9, lag_s=0.4), workers={"archiver": lagging}
    )
    assert problems_of(facts) == []


def test_status_without_a_cluster_is_exit_code_3_and_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program learns the same as a person."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLYWHEEL__SERVE__PORT", "1")
    assert run(["--json", "status"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"] is False
    assert "cluster up --wait" in document["problems"][0]


def test_the_lag_counts_what_the_feature_store_has_not_applied(tmp_path: Path) -> None:
    """An event nobody follows yet waits since it was received."""
    settings = Settings.model_validate({"data_dir": tmp_path, "serve": {"port": 1}})
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    log.append(
        [
            Engagement(
                event_id=f"e{n}",
                kind="view",
                user_id=f"u{n}",
                item_id="i",
                timestamp_ms=1_000_000,
                received_at_ms=1_000_000 + n,
                origin="api",
            )
            for n in range(3)
        ]
    )
    log.close()
    facts = gather(settings, lambda: 1_005_000)
    assert facts.log["backend"] == "sqlite"
    assert sum(facts.log["end_offsets"].values()) == 3
    assert {key: facts.log[key] for key in ("n_events", "lag_events", "lag_s")} == {
        "n_events": 3,
        "lag_events": 3,
        "lag_s": 5.0,
    }
    assert facts.ready["status"] == 0


def test_workers_are_told_by_their_living_replicas_and_gaps_by_all(tmp_path: Path) -> None:
    """A dead replica's lag is nobody's; the records it missed are missed for good."""
    settings = Settings(data_dir=tmp_path)
    membership = Membership(settings.control_url)
    living = Member("archiver", "a", 1_000_000, (0, 1), 50, 7, 1.26, 2, 0, 0, 3, "")
    other = replace(living, replica_id="b", partitions=(2, 3), freshness_s=9.0)
    dead = replace(living, replica_id="c", heartbeat_ms=900_000, n_missed=4, missed_ms=890_000)
    for member in (living, other, dead):
        membership.beat(member)
    membership.close()
    facts = worker_facts(settings, now_ms=1_004_000)
    assert facts["archiver"] == a_worker(
        n_replicas=2,
        lag_records=14,
        freshness_s=9.0,
        n_records=100,
        n_bad=4,
        n_repeated=6,
        n_missed=4,
        missed_ms=890_000,
        n_gone=1,
    )
    assert facts["evidence"] == a_worker(n_replicas=0, n_records=0)
    long_after = worker_facts(settings, now_ms=890_001 + GAP_ALARM_MS)
    assert long_after["archiver"]["n_missed"] == 0


def test_the_lock_is_held_by_one_and_seen_by_all(tmp_path: Path) -> None:
    """A second supervisor is turned away; looking takes nothing from the holder."""
    path = RunFiles(tmp_path / "run").lock
    assert not is_locked(path)
    first = hold_lock(path)
    assert first is not None
    assert is_locked(path)
    assert hold_lock(path, patience_s=0.0) is None
    os.close(first)
    assert not is_locked(path)


def test_a_state_is_read_as_written_and_a_foreign_one_as_none(tmp_path: Path) -> None:
    """A file of another release does not stop a command."""
    path = tmp_path / "state.json"
    state = RunState("run-1", 7, "failed", "starting ray", "port 8000 is used", 3)
    write_state(path, state)
    assert read_state(path) == state
    path.write_text('{"phase": "x", "unknown": 1}')
    assert read_state(path) is None


@contextmanager
def a_starting_run(directory: Path) -> Generator[tuple[Settings, RunFiles]]:
    """A run whose supervisor lives (this process holds the lock) and is deploying."""
    settings = Settings.model_validate(
        {
            "data_dir": directory,
            "serve": {"port": 1},
            "cluster": {"start_timeout_s": 1},
        }
    )
    files = RunFiles(settings.run_dir)
    lock = hold_lock(files.lock)
    assert lock is not None
    write_state(files.state, RunState("run-1", os.getpid(), "starting", "deploying applications"))
    try:
        yield settings, files
    finally:
        os.close(lock)


def ignore(step: str, share: float | None) -> None:
    """A progress display nobody watches."""


def test_a_start_without_wait_returns_once_past_the_preflight(tmp_path: Path) -> None:
    """The caller learns at once that nothing stands in the way."""
    with a_starting_run(tmp_path) as (settings, files):
        state = follow_start(settings, files, None, wait=False, show=ignore)
    assert state.step == "deploying applications"


def test_a_start_that_takes_too_long_says_what_it_waited_for(tmp_path: Path) -> None:
    """Exit code 7, with the application that is not there yet and its last line."""
    with a_starting_run(tmp_path) as (settings, files):
        application = an_application("DEPLOYING", "frames\nno bundle fits")
        write_document(files.serve_status, {"applications": {"recommend": application}})
        with pytest.raises(WaitTimeout, match="recommend is DEPLOYING: no bundle fits") as caught:
            follow_start(settings, files, None, wait=True, show=ignore)
    assert caught.value.exit_code == 7


def test_an_application_that_cannot_be_deployed_ends_the_wait_at_once(tmp_path: Path) -> None:
    """The reason is the last line of Serve's message."""
    with a_starting_run(tmp_path) as (settings, files):
        broken = an_application("DEPLOY_FAILED") | {"message": "Traceback\nImportError: nope"}
        write_document(files.serve_status, {"applications": {"recommend": broken}})
        with pytest.raises(FleetError, match="ImportError: nope"):
            follow_start(settings, files, None, wait=True, show=ignore)


def test_a_supervisor_that_ended_is_told_with_its_own_reason(tmp_path: Path) -> None:
    """The recorded error and its exit code are passed on."""
    with a_starting_run(tmp_path) as (settings, files):
        failed = RunState("run-1", 7, "failed", "looking for orphans", "port 8000 is used", 3)
        write_state(files.state, failed)
    with pytest.raises(FleetError, match="port 8000 is used") as caught:
        follow_start(settings, files, None, wait=True, show=ignore)
    assert caught.value.exit_code == 3


def test_a_run_that_is_killed_while_another_up_follows_it_is_told_apart(tmp_path: Path) -> None:
    """`up` then starts one of its own; after a stop in order it does not."""
    with a_starting_run(tmp_path) as (settings, files):
        pass
    with pytest.raises(RunWasKilled, match="the supervisor ended"):
        follow_start(settings, files, None, wait=True, show=ignore)
    write_state(files.state, RunState("run-1", 7, "stopped", "nothing is left"))
    with pytest.raises(FleetError) as caught:
        follow_start(settings, files, None, wait=True, show=ignore)
    assert not isinstance(caught.value, RunWasKilled)


def test_the_last_line_of_a_traceback_is_its_error() -> None:
    """A person reads the error, not the frames."""
    assert last_line("Traceback:\n  File x\nValueError: no\n\n") == "ValueError: no"
    assert last_line(" \n") == "no message"
