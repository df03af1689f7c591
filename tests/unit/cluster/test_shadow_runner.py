"""An operator starts and ends shadows of a simulated fleet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.rollouts.deciding.observation import expected_replicas
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.driving.rollout_request import RolloutRequest
from cluster.rollouts.storing.control_writer import ControlWriter
from cluster.rollouts.storing.rows_beside import Stored
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_runner import ShadowRunner
from cluster.shadows.shadow_writer import SHADOW_ROWS, ShadowWriter
from recsys.bundles.bundle import write_manifest
from recsys.bundles.registry import Registry
from recsys.errors import (
    BundleNotFound,
    ConfigError,
    FeatureSchemaMismatch,
    FleetError,
    RolloutConflict,
    StoreError,
    WaitTimeout,
)
from recsys.features import FeatureSchema
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader, ReadinessReporter

SCHEMA = FeatureSchema(("view",), 10, 16)


class Killed(BaseException):
    """The operator's process ends here."""


@dataclass
class Fleet:
    """Stores, a clock, and replicas that report whenever somebody sleeps."""

    folder: Path
    now_ms: int = 1_700_000_000_000
    answers: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Bundle id to what each replica says of it; ready by default."""
    is_silent: bool = False
    skew_ms: int = 0
    """How far the replicas' clocks are ahead."""
    on_sleep: Callable[[], None] = field(default=lambda: None)

    def __post_init__(self) -> None:
        self.settings = Settings.model_validate(
            {"data_dir": self.folder / "var", "retrieval": {"n_shards": 2}}
        )
        self.registry = Registry(self.settings.registry_location)
        self.writer = ShadowWriter(self.settings.control_url)
        self.reader = ControlReader(self.settings.control_url)
        self._reporter = ReadinessReporter(self.settings.control_url)
        ControlWriter(self.settings.control_url).set_alias("stable", "b1", None)
        for bundle_id in ("b1", "b2"):
            self.publish(bundle_id)

    def publish(self, bundle_id: str, schema: FeatureSchema = SCHEMA, **changes: Any) -> None:
        """Add a small whole bundle."""
        staging = self.folder / f"staging-{bundle_id}"
        staging.mkdir()
        for name in ("user_tower", "item_tower", "item_vectors"):
            (staging / f"{name}.safetensors").write_bytes(f"{name} {bundle_id}".encode())
        facts: dict[str, Any] = {
            "created_at": datetime(2026, 11, 22, tzinfo=UTC),
            "feature_schema": schema.to_json(),
            "feature_schema_hash": schema.hash,
            "actions": ("view",),
            "n_items": 1,
            "n_shards": 2,
            "embedding_dim": 8,
            "lineage": {},
            "metrics": {},
        }
        write_manifest(staging, bundle_id=bundle_id, **(facts | changes))
        self.registry.publish(staging)

    def poll(self, seconds: float = 1.0) -> None:
        """Time passes, and every replica reads and reports once."""
        self.now_ms += round(max(seconds, 0.001) * 1000)
        self.on_sleep()
        if self.is_silent:
            return
        names = ("b1", *self.reader.view().beside)
        states = {name: self.answers.get(name, ("ready", "")) for name in names}
        for stage, count in expected_replicas(self.settings).items():
            for number in range(count):
                beat_ms = self.now_ms + self.skew_ms
                self._reporter.report(f"{stage}-{number}", stage, states, 1, beat_ms)

    def runner(self, who: str = "ann") -> ShadowRunner:
        """An operator's process."""
        operator = Operator(who, lambda: self.now_ms, self.poll, lambda line: None)
        url = self.settings.control_url
        request = RolloutRequest(self.settings, self.registry, ControlWriter(url), self.reader)
        return ShadowRunner(self.settings, request, self.writer, self.reader, operator)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet that lives and serves b1."""
    made = Fleet(tmp_path)
    made.poll()
    return made


def test_a_shadow_runs_once_every_replica_holds_its_bundle(fleet: Fleet) -> None:
    """Before that it gets no copies."""
    seen: list[int] = []
    fleet.answers["b2"] = ("loading", "")

    def load_in_the_end() -> None:
        seen.append(len(fleet.reader.view().shadows))
        if len(seen) == 3:
            fleet.answers.clear()

    fleet.on_sleep = load_in_the_end
    record = fleet.runner().start("b2", 0.3, 60.0)
    assert (record.state, record.share, record.who) == (ShadowState.RUNNING, 0.3, "ann")
    assert seen == [0, 0, 0]
    assert [plan.bundle_id for plan in fleet.reader.view().shadows] == ["b2"]
    assert fleet.runner("bob").start("b2", None, 60.0) == record


def test_a_replica_that_refuses_the_bundle_ends_the_shadow(fleet: Fleet) -> None:
    """With its reason, and the bundle is released."""
    fleet.answers["b2"] = ("failed", "golden answers differ")
    with pytest.raises(FleetError, match="golden answers differ") as refused:
        fleet.runner().start("b2", None, 60.0)
    assert refused.value.exit_code == 3
    (stored,) = fleet.writer.all()
    assert stored.record.is_closed
    assert "golden answers differ" in stored.record.why
    assert fleet.reader.view().beside == ()


def test_a_start_that_was_killed_is_gone_on_with(fleet: Fleet) -> None:
    """By whoever starts it again, with the share it began with."""

    def die() -> None:
        raise Killed

    fleet.on_sleep = die
    with pytest.raises(Killed):
        fleet.runner().start("b2", 0.4, 60.0)
    assert fleet.reader.view().beside == ("b2",)
    fleet.on_sleep = lambda: None
    with pytest.raises(RolloutConflict, match=r"with share 0\.4, expected 0\.1"):
        fleet.runner("bob").start("b2", 0.1, 60.0)
    record = fleet.runner("bob").start("b2", None, 60.0)
    assert (record.state, record.share, record.who) == (ShadowState.RUNNING, 0.4, "ann")
    assert len(fleet.writer.all()) == 1


def test_a_start_that_takes_too_long_says_how_to_go_on(fleet: Fleet) -> None:
    """And leaves the record; stopping it is the other way."""
    fleet.answers["b2"] = ("loading", "")
    with pytest.raises(WaitTimeout, match="go on with 'cluster shadow start b2'"):
        fleet.runner().start("b2", None, 2.0)
    assert fleet.runner().stop(None, "too slow").why == "too slow"
    assert fleet.reader.view().beside == ()


def test_a_shadow_that_is_stopped_while_it_loads_does_not_run(fleet: Fleet) -> None:
    """Whoever waits for it hears of it."""
    fleet.answers["b2"] = ("loading", "")

    def stop() -> None:
        for one in fleet.writer.open():
            fleet.writer.ensure_closed(one.record.shadow_id, "bob", fleet.now_ms, "no")

    fleet.on_sleep = stop
    with pytest.raises(RolloutConflict, match="stopped meanwhile"):
        fleet.runner().start("b2", None, 60.0)


def test_a_bundle_that_cannot_replace_stable_is_refused_before_anything_is_written(
    fleet: Fleet,
) -> None:
    """Stable itself, one that is not there, and one that reads other features."""
    fleet.publish("b3", FeatureSchema(("view",), 10, 32))
    for bundle_id, error in (
        ("b1", ConfigError), ("b9", BundleNotFound), ("b3", FeatureSchemaMismatch),
    ):  # fmt: skip
        with pytest.raises(error):
            fleet.runner().start(bundle_id, None, 60.0)
    assert fleet.writer.all() == []


def test_nothing_starts_while_nothing_runs(fleet: Fleet) -> None:
    """A gateway that is silent for long does not live."""
    fleet.now_ms += 60_000
    fleet.is_silent = True
    with pytest.raises(FleetError, match="no gateway reports"):
        fleet.runner().start("b2", None, 60.0)
    assert fleet.writer.all() == []


def test_stop_needs_to_know_which_one(fleet: Fleet) -> None:
    """One of the operator's is meant without a name; a rollout's has to be named."""
    with pytest.raises(ConfigError, match="no shadow is open"):
        fleet.runner().stop(None, "over")
    fleet.publish("b3")
    for bundle_id in ("b2", "b3"):
        fleet.runner().start(bundle_id, None, 60.0)
        fleet.poll()
    with pytest.raises(ConfigError, match="2 open shadows are meant without a name"):
        fleet.runner().stop(None, "over")
    assert fleet.runner().stop("b2", "over").bundle_id == "b2"
    assert fleet.runner().stop(None, "over").bundle_id == "b3"


@pytest.mark.parametrize("skew_ms", [-6_000, 3_600_000])
def test_replicas_with_wrong_clocks_are_waited_for_and_believed(fleet: Fleet, skew_ms: int) -> None:
    """Behind or far ahead: that their heartbeats move is enough."""
    fleet.skew_ms = skew_ms
    fleet.poll()
    assert fleet.runner().start("b2", None, 60.0).state is ShadowState.RUNNING


def test_a_shadow_of_a_rollout_is_not_the_operators_to_stop(fleet: Fleet) -> None:
    """It is ended with its rollout; by the bundle the operator's own is meant."""
    record = ShadowRecord("r1", "b2", 0.2, ShadowState.PREPARING, "ctl", 1, rollout_id="r1")
    fleet.writer.start(record, "ctl", fleet.now_ms)
    for name in ("r1", "b2"):
        with pytest.raises(RolloutConflict, match="'cluster canary step' or 'cluster canary abort"):
            fleet.runner().stop(name, "over")
    own = fleet.runner().start("b2", None, 60.0)
    assert fleet.runner().stop("b2", "over").shadow_id == own.shadow_id
    assert [stored.record.shadow_id for stored in fleet.writer.open()] == ["r1"]


def test_a_row_with_an_impossible_share_is_a_damaged_store() -> None:
    """With the row to delete, and no advice about settings."""
    record = ShadowRecord("s1", "b2", 0.2, ShadowState.RUNNING, "ann", 1)
    row = SHADOW_ROWS.columns(Stored(record, 1))
    damaged = row | {"document": json.dumps(record.to_json() | {"share": 7.0})}
    assert SHADOW_ROWS.read(row).record == record
    with pytest.raises(StoreError, match="delete its row of control_shadows"):
        SHADOW_ROWS.read(damaged)
