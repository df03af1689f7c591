"""`cluster canary`: what it prints and how it exits, over a fleet that reports from a thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.console import Console
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.driving.rollout_runner import adopt_first
from cluster.rollouts.storing.control_writer import ControlWriter
from cluster.rollouts.verbs.canary_commands import canary
from recsys.bundles.bundle import write_manifest
from recsys.bundles.registry import Registry
from recsys.errors import AbortedByEvidence, ConfigError, FleetError, RolloutConflict, WaitTimeout
from recsys.features import FeatureSchema
from recsys.settings import ServeSettings, Settings
from recsys.stores.control.control import ControlReader, ReadinessReporter

pytestmark = pytest.mark.integration

SCHEMA = FeatureSchema(("view",), 10, 16)


def now_ms() -> int:
    """The commands use the real clock."""
    return time.time_ns() // 1_000_000


def a_cluster(folder: Path) -> Settings:
    """b1 stable, b2 and bad published, nothing running."""
    settings = Settings(data_dir=folder / "var", serve=ServeSettings(placement="fused"))
    registry = Registry(settings.registry_location)
    for bundle_id in ("b1", "b2", "bad"):
        staging = folder / f"staging-{bundle_id}"
        staging.mkdir()
        for name in ("user_tower", "item_tower", "item_vectors"):
            (staging / f"{name}.safetensors").write_bytes(f"{name} {bundle_id}".encode())
        write_manifest(
            staging,
            bundle_id=bundle_id,
            created_at=datetime.now(UTC),
            feature_schema=SCHEMA.to_json(),
            feature_schema_hash=SCHEMA.hash,
            actions=("view",),
            n_items=1,
            n_shards=2,
            embedding_dim=8,
            lineage={},
            metrics={},
        )
        registry.publish(staging)
        if bundle_id == "b1":
            adopt_first(registry, ControlWriter(settings.control_url), settings, now_ms())
    return settings


@contextmanager
def a_fleet(settings: Settings) -> Generator[None]:
    """One gateway that follows the control store and refuses the bundle `bad`."""
    reader, reporter = ControlReader(settings.control_url), ReadinessReporter(settings.control_url)
    has_reported, stopped = threading.Event(), threading.Event()

    def follow() -> None:
        while not stopped.wait(0.02):
            view = reader.view()
            states = {name: ("ready", "") for name in view.required}
            if "bad" in states:
                states["bad"] = ("failed", "golden answers differ")
            epoch = 0 if view.plan is None else view.plan.epoch
            reporter.report("g1", "gateway", states, epoch, now_ms())
            has_reported.set()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        assert has_reported.wait(10)
        yield
    finally:
        stopped.set()
        thread.join()


def run(settings: Settings, *arguments: str, as_json: bool = True) -> Result:
    """The command, as `cluster canary ARGUMENTS`."""
    return CliRunner().invoke(canary, list(arguments), obj=Console(settings, as_json=as_json))


def document(result: Result) -> Any:
    """The one JSON document on stdout."""
    return json.loads(result.stdout)


def test_a_rollout_from_start_to_undo(tmp_path: Path) -> None:
    """The verbs of one evening, in text and JSON."""
    settings = a_cluster(tmp_path)
    with a_fleet(settings):
        started = run(settings, "start", "b2")
        assert (started.exit_code, document(started)["rollout"]["phase"]) == (0, "promoted")
        refused = run(settings, "start", "bad")
        assert isinstance(refused.exception, AbortedByEvidence)
        assert refused.exception.exit_code == 5
        assert document(refused)["rollout"]["reason"] == "bundle_refused"
        assert "golden answers differ" in str(refused.exception)
        waited = run(settings, "status", "--wait", "--timeout", "5")
        assert isinstance(waited.exception, AbortedByEvidence)
        seen = document(waited)
        assert (seen["stable"], seen["is_abandoned"]) == ("b2", False)
        # The gateway may still report the refused bundle until its next poll.
        assert {"b1", "b2"} <= {row["bundle_id"] for row in seen["replicas"]}
        undone = run(settings, "undo", as_json=False)
        assert (undone.exit_code, undone.stdout.count("promoted")) == (0, 1)
        assert document(run(settings, "status"))["stable"] == "b1"
    lines = run(settings, "history", "-n", "3", as_json=False).stdout.splitlines()
    assert len(lines) == 3
    assert "promoted" in lines[-1]
    assert "every gateway follows" in lines[-1]
    assert len(document(run(settings, "history"))["history"]) > 5


def test_a_plan_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """Exit 2."""
    result = run(a_cluster(tmp_path), "start", "b2", "--plan", "quick")
    assert isinstance(result.exception, ConfigError)
    assert "expected one of instant" in str(result.exception)


def test_nothing_running_is_exit_three(tmp_path: Path) -> None:
    """With what to do."""
    result = run(a_cluster(tmp_path), "start", "b2")
    assert isinstance(result.exception, FleetError)
    assert "cluster up --wait" in str(result.exception)


def test_without_a_rollout_status_says_what_is_stable(tmp_path: Path) -> None:
    """Waiting for nothing ends at once, and before the first start nothing is made."""
    empty = run(Settings(data_dir=tmp_path / "none"), "status", "--wait", as_json=False)
    assert (empty.exit_code, empty.stdout) == (0, "stable is not set; run cluster up\n")
    assert not (tmp_path / "none").exists()
    settings = a_cluster(tmp_path)
    result = run(settings, "status", "--wait")
    assert (result.exit_code, document(result)["rollout"]) == (0, None)
    assert run(settings, "history", as_json=False).stdout.count("adopt") == 1
    aborted = run(settings, "abort")
    assert isinstance(aborted.exception, RolloutConflict)


def a_left_rollout(settings: Settings, driven_ms: int) -> Rollout:
    """A rollout whose driver last moved it then."""
    rollout = Rollout(
        "r1",
        "b2",
        "b1",
        "instant",
        (),
        ("b1",),
        ("b2", "b1"),
        driven_ms,
        120_000,
        driven_ms,
        phase=Phase.PREPARING,
    )
    ControlWriter(settings.control_url).start_rollout(rollout, "ann", driven_ms)
    return rollout


def test_a_rollout_its_driver_left_is_told_and_can_be_ended(tmp_path: Path) -> None:
    """Waiting for it would never end."""
    settings = a_cluster(tmp_path)
    a_left_rollout(settings, now_ms() - 60_000)
    assert document(run(settings, "status"))["is_abandoned"]
    assert "canary retry" in run(settings, "status", as_json=False).stdout
    waited = run(settings, "status", "--wait")
    assert isinstance(waited.exception, FleetError)
    assert "canary abort" in str(waited.exception)
    ended = run(settings, "abort", "--message", "enough")
    assert ended.exit_code == 0
    assert document(ended)["rollout"]["message"] == "enough"
    waited = run(settings, "status", "--wait")
    assert isinstance(waited.exception, RolloutConflict)


def test_a_rollout_its_driver_left_can_be_gone_on_with(tmp_path: Path) -> None:
    """To its end."""
    settings = a_cluster(tmp_path)
    a_left_rollout(settings, now_ms() - 60_000)
    ControlWriter(settings.control_url).set_required(("b1", "b2"), ("b1",))
    with a_fleet(settings):
        assert document(run(settings, "retry"))["rollout"]["phase"] == "promoted"


def test_waiting_longer_than_asked_is_exit_seven(tmp_path: Path) -> None:
    """While somebody drives it."""
    settings = a_cluster(tmp_path)
    a_left_rollout(settings, now_ms())
    result = run(settings, "status", "--wait", "--timeout", "0")
    assert isinstance(result.exception, WaitTimeout)
    assert result.exception.exit_code == 7


@pytest.mark.parametrize(
    ("reason", "error"), [(Reason.LATE, FleetError), (Reason.EVIDENCE, AbortedByEvidence)]
)
def test_how_a_rollout_was_aborted_is_its_exit_code(
    tmp_path: Path, reason: Reason, error: type[Exception]
) -> None:
    """Also for whoever only waits."""
    settings = a_cluster(tmp_path)
    rollout = a_left_rollout(settings, now_ms())
    ended = replace(rollout, phase=Phase.ABORTED, reason=reason, message="so it was")
    ControlWriter(settings.control_url).save_rollout(ended, 1, "ann", now_ms())
    result = run(settings, "status", "--wait")
    assert isinstance(result.exception, error)
    assert "so it was" in str(result.exception)


@pytest.mark.parametrize(
    "verb",
    [
        "start",
        "status",
        "pause",
        "resume",
        "step",
        "promote",
        "abort",
        "retry",
        "undo",
        "explain",
        "simulate",
        "history",
    ],
)
def test_every_verb_explains_itself_with_examples(verb: str) -> None:
    """Without settings."""
    result = CliRunner().invoke(canary, [verb, "--help"])
    assert result.exit_code == 0
    assert f"cluster canary {verb}" in result.stdout
