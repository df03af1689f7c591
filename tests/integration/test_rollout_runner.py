"""Whole rollouts over a real control store and registry, with a fleet of replicas in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any

import pytest

from cluster.rollouts.deciding.observation import expected_replicas
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout, Shadowing
from cluster.rollouts.driving.controller import Controller
from cluster.rollouts.driving.controller_lease import ControllerLease
from cluster.rollouts.driving.evidence_source import EvidenceSource
from cluster.rollouts.driving.first_stable import adopt_first, restore_plan
from cluster.rollouts.driving.rollout_actions import FleetControl, Operator
from cluster.rollouts.driving.rollout_runner import RolloutRunner, raise_for_outcome
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.bundle import write_manifest
from recsys.bundles.registry import Registry
from recsys.errors import (
    AbortedByEvidence,
    BundleCorrupt,
    BundleError,
    BundleNotFound,
    ConfigError,
    FeatureSchemaMismatch,
    FleetError,
    RolloutConflict,
)
from recsys.features import FeatureSchema
from recsys.settings import ClusterSettings, ServeSettings, Settings
from recsys.stores.control.control import ControlReader, ReadinessReporter
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.evidence.evidence_sums import LatencyHistogram, ShadowSums
from recsys.traffic import TrafficPlan

pytestmark = pytest.mark.integration

SCHEMA = FeatureSchema(("view",), 10, 16)


class Killed(BaseException):
    """The operator's process ends here."""


@dataclass
class World:
    """Settings, stores, a clock, and replicas that poll whenever somebody sleeps."""

    folder: Path
    settings: Settings
    now_ms: int = 1_700_000_000_000
    refuses: dict[str, str] = field(default_factory=dict)
    """Bundle id to the reason for which the last replica of the fleet refuses it."""
    silent: set[str] = field(default_factory=set)
    """Stages whose replicas do not report."""
    stuck: bool = False
    """Whether gateways go on with the plan they have."""
    is_up: bool = True
    epoch: int = 0
    seen: list[tuple[str, ...]] = field(default_factory=list)
    """The bundles of each plan the gateways followed, in order."""
    lost: list[str] = field(default_factory=list)
    """Bundles that had traffic and were not loaded everywhere."""

    def __post_init__(self) -> None:
        self.registry = Registry(self.settings.registry_location)
        self.writer = ControlWriter(self.settings.control_url)
        self.reader = ControlReader(self.settings.control_url)
        self._reporter = ReadinessReporter(self.settings.control_url)

    def poll(self, seconds: float = 1.0) -> None:
        """Time passes, and every replica reads and reports once."""
        self.now_ms += max(1000, round(seconds * 1000))
        if not self.is_up:
            return
        view = self.reader.view()
        planned = view.plan.bundle_ids if view.plan is not None else ()
        if not self.stuck and view.plan is not None and view.plan.epoch > self.epoch:
            self.epoch = view.plan.epoch
            self.seen.append(planned)
            self.lost += [name for name in planned if name in self.refuses]
        self.lost += [name for name in planned if name not in (*view.required, *planned)]
        names = dict.fromkeys((*view.required, *planned))
        for stage, count in expected_replicas(self.settings).items():
            for number in range(0 if stage in self.silent else count):
                states = {name: ("ready", "") for name in names}
                if stage in {"ordering", "gateway"} and number == count - 1:
                    states |= {n: ("failed", self.refuses[n]) for n in names if n in self.refuses}
                self._reporter.report(f"{stage}-{number}", stage, states, self.epoch, self.now_ms)

    def runner(self, who: str = "ann", writer: ControlWriter | None = None) -> RolloutRunner:
        """An operator's process."""
        operator = Operator(who, lambda: self.now_ms, self.poll, lambda line: None)
        return RolloutRunner(self.settings, self.registry, writer or self.writer, operator)

    def publish(self, bundle_id: str, **changes: Any) -> str:
        """Add a whole bundle to the registry."""
        staging = self.folder / f"staging-{bundle_id}"
        staging.mkdir()
        for name in ("user_tower", "item_tower", "item_vectors"):
            (staging / f"{name}.safetensors").write_bytes(f"{name} {bundle_id}".encode())
        facts = {
            "created_at": datetime.fromtimestamp(1_700_000_000 + len(bundle_id + bundle_id), UTC),
            "feature_schema": SCHEMA.to_json(),
            "feature_schema_hash": SCHEMA.hash,
            "actions": ("view",),
            "n_items": 1,
            "n_shards": 2,
            "embedding_dim": 8,
            "lineage": {},
            "metrics": {},
        }
        write_manifest(staging, bundle_id=bundle_id, **(facts | changes))
        self.registry.publish(staging)
        return bundle_id

    def damage(self, bundle_id: str) -> None:
        """Truncate a file of a published bundle."""
        path = Path(self.settings.registry_location, bundle_id, "item_vectors.safetensors")
        path.write_bytes(b"")

    def adopt(self) -> str | None:
        """What `cluster up` does before it starts anything."""
        return adopt_first(self.registry, self.writer, self.settings, self.now_ms)

    def stable(self) -> str:
        """The stable bundle."""
        return self.reader.view().aliases["stable"]

    def arms(self) -> tuple[str, ...]:
        """The bundles of the plan in force."""
        plan = self.reader.view().plan
        assert plan is not None
        assert sum(arm.share for arm in plan.arms) == pytest.approx(1.0)
        return plan.bundle_ids


def a_world(folder: Path, *, bundles: int = 2, placement: str = "fused", **serve: Any) -> World:
    """A running fleet with b1 stable, and b2.. published; one replica, which is cheap to run."""
    settings = Settings(
        data_dir=folder / "var",
        serve=ServeSettings.model_validate({"placement": placement, **serve}),
        cluster=ClusterSettings(ready_timeout_s=8),
    )
    world = World(folder, settings)
    world.publish("b1")
    assert world.adopt() == "b1"
    for number in range(2, bundles + 1):
        world.publish(f"b{number}")
    world.poll()
    return world


def test_an_instant_rollout_replaces_the_stable_bundle(tmp_path: Path) -> None:
    """Loaded everywhere before it has traffic, and the old one stays for a way back."""
    world = a_world(tmp_path)
    rollout = world.runner().start("b2")
    assert (rollout.phase, rollout.is_closed) == (Phase.PROMOTED, True)
    raise_for_outcome(rollout)
    assert (world.stable(), world.arms()) == ("b2", ("b2",))
    assert world.reader.view().required == ("b2", "b1")
    assert (world.seen, world.lost) == ([("b1",), ("b2",)], [])
    verbs = [entry.verb for entry in world.writer.history()]
    assert verbs[0] == "adopt"
    assert list(dict.fromkeys(verbs[1:])) == ["starting", "preparing", "promoting", "promoted"]


@pytest.mark.parametrize(
    ("keep", "required"), [(0, ("b3",)), (1, ("b3", "b2")), (5, ("b3", "b2", "b1"))]
)
def test_as_many_earlier_bundles_stay_resident_as_the_setting_says(
    tmp_path: Path, keep: int, required: tuple[str, ...]
) -> None:
    """The newest ones."""
    world = a_world(tmp_path, bundles=3, keep_resident=keep)
    world.runner().start("b2")
    world.runner().start("b3")
    assert world.reader.view().required == required


def test_a_rollout_over_a_split_graph_asks_every_stage(tmp_path: Path) -> None:
    """With two gateways here."""
    world = a_world(tmp_path, placement="handle", gateway_replicas=2)
    assert world.runner().start("b2").phase is Phase.PROMOTED


def test_a_bundle_one_replica_refuses_is_aborted_with_its_reason(tmp_path: Path) -> None:
    """It never has traffic, is no longer required, and the exit code is that of evidence."""
    world = a_world(tmp_path)
    world.refuses["b2"] = "golden answers differ"
    rollout = world.runner().start("b2")
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.REFUSED)
    assert "golden answers differ" in rollout.message
    assert (world.stable(), world.arms(), world.reader.view().required) == ("b1", ("b1",), ("b1",))
    assert world.lost == []
    with pytest.raises(AbortedByEvidence, match=r"golden answers differ; b1 answers") as caught:
        raise_for_outcome(rollout)
    assert caught.value.exit_code == 5


def test_a_fleet_that_misses_a_stage_never_promotes(tmp_path: Path) -> None:
    """It is waited for, and then the rollout ends with what was missing."""
    world = a_world(tmp_path, placement="handle")
    world.silent.add("shard-001")
    world.poll(10)
    rollout = world.runner().start("b2")
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.LATE)
    assert "shard-001 (0 of 1 ready)" in rollout.message
    assert world.arms() == ("b1",)
    with pytest.raises(FleetError, match="shard-001"):
        raise_for_outcome(rollout)


def test_promotion_waits_for_every_gateway_and_nothing_is_unloaded_before(tmp_path: Path) -> None:
    """Gateways that do not follow end in an abort, which waits for them as well."""
    world = a_world(tmp_path)
    world.stuck = True
    with pytest.raises(FleetError, match="follows traffic plan 1"):
        world.runner().start("b2")
    stored = world.writer.open_rollout()
    assert stored is not None
    assert (stored.rollout.phase, stored.rollout.reason) == (Phase.ABORTED, Reason.LATE)
    assert set(world.reader.view().required) == {"b1", "b2"}
    assert (world.stable(), world.arms()) == ("b1", ("b1",))
    world.stuck = False
    assert world.runner().retry().is_closed
    assert world.reader.view().required == ("b1",)


def test_nothing_running_refuses_a_rollout(tmp_path: Path) -> None:
    """Exit 3, and nothing was recorded."""
    world = a_world(tmp_path)
    world.is_up = False
    world.poll(10)
    with pytest.raises(FleetError, match="cluster up --wait"):
        world.runner().start("b2")
    assert world.writer.rollouts() == []


def test_what_cannot_be_loaded_is_refused_before_it_is_required(tmp_path: Path) -> None:
    """Each with its own error; replicas never hear of it."""
    world = a_world(tmp_path)
    world.publish("other-shards", n_shards=3)
    world.publish("other-schema", feature_schema_hash="9a02")
    world.publish("no-schema", feature_schema={})
    blind = FeatureSchema(("like",), 10, 16)
    world.publish("fewer-kinds", feature_schema=blind.to_json(), feature_schema_hash=blind.hash)
    world.damage("b2")
    expected: dict[str, tuple[type[Exception], str]] = {
        "b2": (BundleCorrupt, "item_vectors"),
        "b9": (BundleNotFound, "b9"),
        "other-shards": (BundleError, "3 index shards, the setting retrieval.n_shards is 2"),
        "other-schema": (FeatureSchemaMismatch, "9a02"),
        "no-schema": (FeatureSchemaMismatch, "cannot be read"),
        "fewer-kinds": (FeatureSchemaMismatch, "no kinds view, expected all that stable reads"),
        "b1": (ConfigError, "already stable"),
    }
    for bundle_id, (error, message) in expected.items():
        with pytest.raises(error, match=message):
            world.runner().start(bundle_id)
    with pytest.raises(ConfigError, match="'quick' does not exist, expected one of instant"):
        world.runner().start("b2", "quick")
    assert (world.writer.rollouts(), world.reader.view().required) == ([], ("b1",))


def test_before_anything_is_stable_there_is_nothing_to_replace(tmp_path: Path) -> None:
    """The cluster was never started."""
    world = World(tmp_path, Settings(data_dir=tmp_path / "var"))
    world.publish("b1")
    for verb in (lambda: world.runner().start("b1"), lambda: world.runner().undo()):
        with pytest.raises(FleetError, match="no bundle is stable yet"):
            verb()


class DyingWriter(ControlWriter):
    """Kills its process before or after its n-th change."""

    def __init__(self, url: str, n_changes: int, *, before: bool) -> None:
        super().__init__(url)
        self._left = n_changes
        self._before = before

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name not in {
            "set_plan",
            "set_alias",
            "set_required",
            "start_rollout",
            "save_rollout",
            "append_history",
        }:
            return attribute

        def change(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 and self._before:
                raise Killed
            result = attribute(*arguments, **options)
            if self._left == 0:
                raise Killed
            return result

        return change


@pytest.mark.parametrize("n_changes", range(1, 13))
@pytest.mark.parametrize(("is_bad", "then"), [(False, "start"), (False, "abort"), (True, "retry")])
def test_an_operator_killed_between_any_two_writes_leaves_a_rollout_to_go_on_from(
    tmp_path: Path, n_changes: int, is_bad: bool, then: str
) -> None:
    """Traffic is always whole and on a loaded bundle, and the next operator ends what was begun."""
    world = a_world(tmp_path)
    if is_bad:
        world.refuses["b2"] = "golden answers differ"
    dying = DyingWriter(world.settings.control_url, n_changes, before=True)
    try:
        world.runner("ann", dying).start("b2")
    except Killed:
        world.poll(1)
    assert world.arms() in {("b1",), ("b2",)}
    world.poll(11)
    left = world.writer.open_rollout()
    if left is None:
        assert world.stable() in {"b1", "b2"}
        return
    runner = world.runner("bob")
    ended = {"retry": runner.retry, "abort": runner.abort, "start": lambda: runner.start("b2")}[
        then
    ]()
    assert ended.is_closed
    assert ended.phase is not Phase.PROMOTED or not is_bad
    if then == "abort" and not left.rollout.is_finished:
        assert ended.phase is Phase.ABORTED
    answers = "b2" if ended.phase is Phase.PROMOTED else "b1"
    assert (world.stable(), world.arms()) == (answers, (answers,))
    assert answers in world.reader.view().required
    assert ("b2" in world.reader.view().required) == (answers == "b2")
    assert world.lost == []


def test_one_rollout_at_a_time_and_a_living_driver_is_not_disturbed(tmp_path: Path) -> None:
    """Another bundle is refused at once; the same one, while somebody drives it."""
    world = a_world(tmp_path, bundles=3)
    with pytest.raises(Killed):
        world.runner("ann", DyingWriter(world.settings.control_url, 3, before=True)).start("b2")
    world.writer.touch_rollout(_fence(world), "ann", world.now_ms)
    for verb in (
        lambda: world.runner("bob").start("b2"),
        lambda: world.runner("bob").start("b3"),
        lambda: world.runner("bob").undo("b3"),
    ):
        with pytest.raises(RolloutConflict, match="of b2 is preparing"):
            verb()
    with pytest.raises(RolloutConflict, match="is driven by ann"):
        world.runner("bob").retry()


def _fence(world: World) -> Any:
    from cluster.rollouts.storing.control_writer import Fence

    stored = world.writer.open_rollout()
    assert stored is not None
    return Fence(stored.rollout.rollout_id, stored.revision)


def test_an_abort_by_somebody_else_stops_the_driver(tmp_path: Path) -> None:
    """Its next write is refused, and the abort is what counts."""
    world = a_world(tmp_path, placement="handle")
    world.silent.add("scorer")
    world.poll(10)
    aborted: list[Rollout] = []

    def poll_and_abort(seconds: float) -> None:
        world.poll(seconds)
        if not aborted:
            aborted.append(world.runner("bob").abort("wrong catalogue"))

    operator = Operator("ann", lambda: world.now_ms, poll_and_abort, lambda line: None)
    driver = RolloutRunner(world.settings, world.registry, world.writer, operator)
    with pytest.raises(RolloutConflict, match="aborted by bob"):
        driver.start("b2")
    assert (aborted[0].phase, aborted[0].is_closed) == (Phase.ABORTED, True)
    assert (world.stable(), world.arms()) == ("b1", ("b1",))
    with pytest.raises(RolloutConflict, match="wrong catalogue"):
        raise_for_outcome(aborted[0])


def test_an_abort_while_promoting_halts_if_the_old_bundle_is_not_healthy(tmp_path: Path) -> None:
    """It stays where it is; retry goes on, and abort works once the bundle is healthy again."""
    world = a_world(tmp_path)
    world.stuck = True
    dying = DyingWriter(world.settings.control_url, 7, before=False)
    with pytest.raises(Killed):
        world.runner("ann", dying).start("b2")
    assert world.arms() == ("b2",)
    world.refuses["b1"] = "out of memory"
    world.poll(1)
    with pytest.raises(FleetError, match=r"halted.*out of memory"):
        world.runner("bob").abort()
    assert world.arms() == ("b2",)
    world.refuses.clear()
    world.stuck = False
    world.poll(1)
    assert world.runner("cem").abort().phase is Phase.ABORTED
    assert world.arms() == ("b1",)


def test_a_halted_rollout_can_be_tried_again_at_once(tmp_path: Path) -> None:
    """Nobody has to wait until the driver counts as gone."""
    world = a_world(tmp_path, placement="handle")
    world.stuck = True
    with pytest.raises(Killed):
        world.runner("ann", DyingWriter(world.settings.control_url, 7, before=False)).start("b2")
    world.silent.add("scorer")
    world.poll(6)
    with pytest.raises(FleetError, match="halted"):
        world.runner("bob").abort()
    world.silent.clear()
    world.stuck = False
    world.poll(1)
    assert world.runner("cem").retry().phase is Phase.PROMOTED


def test_undo_leads_back_step_by_step(tmp_path: Path) -> None:
    """Each a rollout of its own, to what was stable before and not undone."""
    world = a_world(tmp_path, bundles=3)
    for bundle_id in ("b2", "b3"):
        world.runner().start(bundle_id)
        world.poll()
    undone = world.runner().undo()
    assert undone is not None
    assert (undone.bundle_id, undone.is_undo, world.stable()) == ("b2", True, "b2")
    world.poll()
    world.runner().undo()
    assert world.stable() == "b1"
    with pytest.raises(ConfigError, match="no bundle was stable before b1"):
        world.runner().undo()
    world.poll()
    world.runner().undo("b3")
    assert world.stable() == "b3"


def test_there_is_nothing_to_abort_or_to_retry_without_a_rollout(tmp_path: Path) -> None:
    """The error says what leads back instead."""
    world = a_world(tmp_path)
    for verb in (world.runner().abort, world.runner().retry):
        with pytest.raises(RolloutConflict, match="canary undo"):
            verb()


def test_the_newest_valid_bundle_is_adopted_once(tmp_path: Path) -> None:
    """Damaged and unfit ones are passed over with the reason; a stable bundle is kept."""
    world = World(tmp_path, Settings(data_dir=tmp_path / "var"))
    assert world.adopt() is None
    for age, bundle_id in enumerate(("damaged", "unfit", "good", "old")):
        created_at = datetime.fromtimestamp(2_000_000_000 - age, UTC)
        world.publish(bundle_id, created_at=created_at, n_shards=5 if bundle_id == "unfit" else 2)
    world.damage("damaged")
    lines: list[str] = []
    adopt = (world.registry, world.writer, world.settings, world.now_ms, lines.append)
    assert adopt_first(*adopt) == "good"
    assert [line.split()[1] for line in lines] == ["damaged", "unfit"]
    world.publish("newer", created_at=datetime.fromtimestamp(2_000_000_009, UTC))
    assert adopt_first(*adopt) == "good"
    assert (world.stable(), world.arms(), world.reader.view().required) == (
        "good",
        ("good",),
        ("good",),
    )


@pytest.mark.parametrize("n_changes", range(1, 5))
def test_an_adoption_killed_between_any_two_writes_is_completed_by_the_next(
    tmp_path: Path, n_changes: int
) -> None:
    """The alias is written last."""
    world = World(tmp_path, Settings(data_dir=tmp_path / "var"))
    world.publish("b1")
    dying = DyingWriter(world.settings.control_url, n_changes, before=True)
    with pytest.raises(Killed):
        adopt_first(world.registry, dying, world.settings, world.now_ms)
    assert world.adopt() == "b1"
    assert (world.stable(), world.arms(), world.reader.view().required) == ("b1", ("b1",), ("b1",))


def test_a_damaged_stable_bundle_is_named_with_the_way_back_which_works(tmp_path: Path) -> None:
    """Nothing could start with it, so the earlier one becomes stable without a fleet."""
    world = a_world(tmp_path)
    world.runner().start("b2")
    world.is_up = False
    world.poll(10)
    world.damage("b2")
    with pytest.raises(BundleCorrupt, match=r"b2.*item_vectors.*canary undo --to b1"):
        world.adopt()
    assert world.runner().undo("b1") is None
    assert world.adopt() == "b1"
    assert (world.stable(), world.arms()) == ("b1", ("b1",))
    assert world.writer.history()[-1].verb == "restore"


def test_a_healthy_stable_bundle_is_not_undone_while_nothing_runs(tmp_path: Path) -> None:
    """There is no data, and no emergency."""
    world = a_world(tmp_path)
    world.runner().start("b2")
    world.is_up = False
    world.poll(10)
    with pytest.raises(FleetError, match="cluster up --wait"):
        world.runner().undo()
    assert world.stable() == "b2"


def test_a_damaged_bundle_that_is_only_kept_is_let_go_at_the_start(tmp_path: Path) -> None:
    """Replicas would try to load it for ever."""
    world = a_world(tmp_path)
    world.runner().start("b2")
    world.damage("b1")
    lines: list[str] = []
    restore_plan(world.registry, world.writer, world.settings, world.now_ms, lines.append)
    assert world.reader.view().required == ("b2",)
    assert "b1 is no longer kept loaded" in lines[0]


@pytest.mark.parametrize("n_changes", range(2, 10))
def test_a_start_after_a_crash_finishes_or_aborts_what_was_begun(
    tmp_path: Path, n_changes: int
) -> None:
    """With the candidate damaged meanwhile, all traffic is back on the old bundle."""
    world = a_world(tmp_path)
    with pytest.raises(Killed):
        dying = DyingWriter(world.settings.control_url, n_changes, before=False)
        world.runner("ann", dying).start("b2")
    left = world.writer.open_rollout()
    assert left is not None
    world.is_up = False
    world.poll(10)
    if left.rollout.is_finished:
        assert world.adopt() == "b2"
        assert world.writer.open_rollout() is None
        return
    world.damage("b2")
    assert world.adopt() == "b1"
    assert world.writer.open_rollout() is None
    assert (world.arms(), world.reader.view().required) == (("b1",), ("b1",))


def test_a_lost_plan_is_made_again_from_the_stable_bundle(tmp_path: Path) -> None:
    """The alias says what must answer."""
    world = a_world(tmp_path)
    world.writer.set_plan(TrafficPlan.single("b2", 7, "s"), 1)
    assert world.adopt() == "b1"
    assert world.arms() == ("b1",)
    plan = world.reader.view().plan
    assert plan is not None
    assert plan.epoch == 8


def at_a_step(world: World) -> ControllerLease:
    """A rollout of b2 by the fast plan at its first step, as its controller leaves it."""
    lease = ControllerLease(world.settings.control_url)
    assert lease.take("controller", world.now_ms)
    started = world.runner().start("b2", "fast")
    assert (started.phase, started.plan_name) == (Phase.STARTING, "fast")
    controller = a_controller(world)
    for _ in range(5):
        controller.turn()
        world.poll()
    stored = world.writer.open_rollout()
    assert stored is not None
    assert (stored.rollout.phase, stored.rollout.shadow) == (Phase.PREPARING, Shadowing.RUNNING)
    assert world.runner().step("nobody asks here").shadow is Shadowing.OVER
    for _ in range(5):
        controller.turn()
        world.poll()
    stored = world.writer.open_rollout()
    assert stored is not None
    assert world.reader.view().beside == ()
    assert (stored.rollout.phase, stored.rollout.step) == (Phase.CANARY, 0)
    return lease


def a_controller(world: World) -> Controller:
    """The controller that holds the lease, over evidence that was never written."""
    operator = Operator("controller", lambda: world.now_ms, world.poll, lambda line: None)
    source = EvidenceSource(EvidenceReader(world.settings.evidence_url), operator.clock)
    nothing = ShadowSums(0, 0, 0, 0, nan, nan, LatencyHistogram({}), LatencyHistogram({}), {})
    return Controller(
        world.writer,
        FleetControl(world.settings, world.writer, world.reader, operator),
        ControllerLease(world.settings.control_url),
        source,
        operator,
        lambda moved: None,
        lambda shadow_id: nothing,
    )


def test_a_plan_with_steps_needs_a_controller(tmp_path: Path) -> None:
    """Exit 3, and nothing was recorded."""
    world = a_world(tmp_path)
    with pytest.raises(FleetError, match="no controller reports") as caught:
        world.runner().start("b2", "standard")
    assert caught.value.exit_code == 3
    assert world.writer.rollouts() == []


def test_an_operator_steers_a_rollout_that_the_controller_drives(tmp_path: Path) -> None:
    """Pause, resume, step; a promotion without evidence has to be asked for in full."""
    world = a_world(tmp_path)
    at_a_step(world)
    runner, controller = world.runner(), a_controller(world)
    assert runner.pause("lunch").phase is Phase.PAUSED
    assert controller.turn() > 0
    assert set(world.arms()) == {"b1", "b2"}
    runner.resume()
    skipped = runner.step("seen enough")
    assert (skipped.step, skipped.reason) == (1, Reason.SKIPPED)
    with pytest.raises(ConfigError, match="--full") as caught:
        runner.promote()
    assert caught.value.exit_code == 2
    forced = runner.promote(full=True)
    assert (forced.phase, forced.reason) == (Phase.PROMOTING, Reason.FORCED)
    for _ in range(6):
        controller.turn()
        world.poll()
    assert world.stable() == "b2"
    said = [(entry.who, entry.why) for entry in world.writer.history()]
    assert ("ann", "seen enough") in said
    assert ("ann", "promoted by the operator without waiting for evidence") in said


def test_an_abort_of_a_canary_is_driven_by_whoever_asks_for_it(tmp_path: Path) -> None:
    """With the controller dead or alive."""
    world = a_world(tmp_path)
    at_a_step(world)
    assert set(world.arms()) == {"b1", "b2"}
    before_ms = world.now_ms
    aborted = world.runner("bob").abort("wrong catalogue")
    assert (aborted.phase, aborted.is_closed) == (Phase.ABORTED, True)
    assert (world.arms(), world.reader.view().required) == (("b1",), ("b1",))
    assert world.now_ms - before_ms <= 2_000
