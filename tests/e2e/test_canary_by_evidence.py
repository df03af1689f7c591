"""Rollouts that the controller drives by evidence, on real Ray, under traffic of many users."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.rollouts.deciding.rollout_record import Phase
from cluster.rollouts.deciding.rollout_turn import replay
from cluster.rollouts.driving.controller_lease import ControllerLease
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.driving.rollout_runner import RolloutRunner
from cluster.rollouts.storing.control_writer import ControlWriter, StoredRollout
from recsys.bundles.bundle import MANIFEST_NAME, read_manifest
from recsys.bundles.registry import Registry
from recsys.features import OTHER_KIND
from recsys.settings import Settings
from recsys.traffic import BASELINE, CANARY, Arm, TrafficPlan
from recsys.traffic import STABLE as STABLE_ARM
from tests.bundles_for_tests import build_bundle, small_settings, write_as
from tests.loop_driver import Loop, wait_for

pytestmark = pytest.mark.e2e

STABLE, EQUAL, BAD, RAISING, SLOW = "b0001", "b0002", "b0003", "b0004", "b0005"
FAULTS = {RAISING: "raises", SLOW: 0.08}
"""Scorers that fail only who is answered by them, and by how many seconds a call is late."""
N_USERS = 400
FAULT_INJECTION = Path(__file__).parents[1] / "fault_injection"
UNLEARNT = "share"
"""A kind of engagement that no bundle's schema names: it is read as any other kind."""
PLAN = """
[[steps]]
share = 0.05
min_users = 2
min_requests = 10
metrics = ["error_rate", "degraded_share", "p50_ms"]
[[steps]]
share = 0.25
min_users = 10
min_requests = 30
metrics = ["error_rate", "degraded_share"]
[[steps]]
share = 0.5
min_users = 20
min_requests = 60
metrics = ["error_rate", "degraded_share"]
[metrics.error_rate]
margin = 0.4
[metrics.degraded_share]
margin = 0.4
[metrics.p50_ms]
margin = 4.0
"""
"""Margins that a busy machine does not pass by itself."""
MOST_TO_ABORT_MS = 30_000
MOST_TO_FOLLOW_MS = 2_000
"""From the decision to the last answer of an aborted canary."""
NO_ANSWER = 0
"""The status of a request that ended without one."""


@dataclass(frozen=True)
class Answered:
    """One request as its user saw it."""

    sent_ms: int
    user_id: str
    status: int
    bundle_id: str
    is_degraded: bool


class Traffic:
    """Two clients that ask for many users in turn, at a bounded rate, until stopped."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered: list[Answered] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(2)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, first: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            for n in itertools.count(first, 2):
                if self._stopped.wait(0.015):
                    return
                self.answered.append(_answer(client, f"u{n % N_USERS}"))

    def wait_until(self, moment_ms: int) -> None:
        """Return once a request that was sent after this was answered."""
        wait_for(lambda: self.answered[-1].sent_ms > moment_ms, "further answers", 60)

    def by_bundle(self, bundle_id: str, since_ms: int) -> list[Answered]:
        """What this bundle answered since then."""
        return [a for a in self.answered if a.bundle_id == bundle_id and a.sent_ms >= since_ms]


def _answer(client: httpx.Client, user_id: str) -> Answered:
    sent_ms = now_ms()
    try:
        response = client.get("/v1/recommend", params={"user_id": user_id, "k": 10})
    except httpx.HTTPError:
        return Answered(sent_ms, user_id, NO_ANSWER, "", is_degraded=False)
    found = response.json() if response.status_code == 200 else {}
    return Answered(
        sent_ms,
        user_id,
        response.status_code,
        found.get("bundle_id", ""),
        bool(found.get("degraded")),
    )


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Place:
    """A running cluster, its stores, and its users."""

    def __init__(self, loop: Loop, settings: Settings, traffic: Traffic) -> None:
        self.loop = loop
        self.traffic = traffic
        self.writer = ControlWriter(settings.control_url)
        self.lease = ControllerLease(settings.control_url)
        operator = Operator("test", now_ms, time.sleep, print)
        registry = Registry(settings.registry_location)
        self.runner = RolloutRunner(settings, registry, self.writer, operator)
        self.plan_file = str(loop.data_dir.parent / "quick.toml")

    @property
    def newest(self) -> StoredRollout:
        """The newest rollout as recorded."""
        return self.writer.rollouts()[-1]


def publish_as(registry: Registry, staging: Path, bundle_id: str) -> None:
    """Publish a staged copy of a bundle under another name."""
    manifest = read_manifest(staging)
    (staging / MANIFEST_NAME).unlink()
    write_as(staging, manifest, bundle_id)
    registry.publish(staging)


def publish_with_diverged_kind(registry: Registry, good: Path, staging: Path) -> None:
    """A bundle whose scorer has no finite estimate for who did what its schema does not name.

    Its golden requests have no such act, so it passes every check that is made when it is loaded.
    """
    shutil.copytree(good, staging)
    path = staging / "scorer.safetensors"
    state = load_file(path)
    state["network.kind_bias"][OTHER_KIND] = torch.nan
    save_file(state, path)
    publish_as(registry, staging, BAD)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    """A cluster that serves, and users who never stop asking."""
    directory = tmp_path_factory.mktemp("canary")
    settings = small_settings(directory / "var")
    registry = Registry(settings.registry_location)
    for seed, bundle_id in ((1, STABLE), (2, EQUAL)):
        build_bundle(directory / bundle_id, settings, seed=seed)
    registry.publish(directory / STABLE)
    (directory / "quick.toml").write_text(PLAN)
    retrieval = settings.retrieval
    loop = Loop(
        settings.data_dir,
        RETRIEVAL__N_CANDIDATES=str(retrieval.n_candidates),
        RETRIEVAL__N_SHARDS=str(retrieval.n_shards),
        # Only what is made to fail may be late, whatever else this machine does.
        SERVE__STAGE_TIMEOUT_MS="5000",
        SERVE__DEADLINE_MS="10000",
    )
    loop.environment["PYTHONPATH"] = str(FAULT_INJECTION)
    loop.environment["FAULTY_SCORERS"] = json.dumps(FAULTS)
    try:
        loop.run("up", "--wait")
        registry.publish(directory / EQUAL)
        publish_with_diverged_kind(registry, directory / EQUAL, directory / BAD)
        for bundle_id in FAULTS:
            shutil.copytree(directory / EQUAL, directory / bundle_id)
            publish_as(registry, directory / bundle_id, bundle_id)
        loop.post_events(
            *({"kind": UNLEARNT, "user_id": f"u{n}", "item_id": "i7"} for n in range(N_USERS))
        )
        with Traffic(loop.url) as traffic:
            yield Place(loop, settings, traffic)
        assert {answered.status for answered in traffic.answered} == {200}
    finally:
        loop.run("down")


def test_the_controller_lives_and_is_shown(place: Place) -> None:
    """The third application runs and holds the lease, which the status tells."""
    wait_for(lambda: place.lease.is_held(now_ms()), "a controller", timeout_s=60)
    status = place.loop.run_json("status")
    assert status["serve"]["applications"]["control"]["status"] == "RUNNING"
    assert status["control"]["controller"]["is_held"] is True


@pytest.mark.parametrize(
    ("bundle_id", "deciding"),
    [(BAD, "degraded_share"), (RAISING, "degraded_share"), (SLOW, "p50_ms")],
    ids=["not finite", "raises", "ten times as slow"],
)
def test_a_bundle_that_answers_badly_is_aborted_by_evidence(
    place: Place, bundle_id: str, deciding: str
) -> None:
    """It passed every check of a load; only users of the first step met it, and not for long."""
    began_ms = now_ms()
    place.runner.start(bundle_id, place.plan_file)
    place.loop.run("canary", "status", "--wait", "--timeout", "120", expect=5)
    rollout = place.newest.rollout
    place.traffic.wait_until(rollout.since_ms + MOST_TO_FOLLOW_MS + 1_000)
    seen = place.traffic.by_bundle(bundle_id, began_ms)
    assert seen, "no user of the first step was answered by it"
    assert {a.user_id for a in seen} <= users_of_first_step(rollout.rollout_id, bundle_id)
    assert max(a.sent_ms for a in seen) <= rollout.since_ms + MOST_TO_FOLLOW_MS
    assert rollout.since_ms - min(answered.sent_ms for answered in seen) <= MOST_TO_ABORT_MS
    assert (rollout.judgement or {})["deciding"] == deciding
    if deciding == "degraded_share":
        assert any(answered.is_degraded for answered in seen)
        beside = [a for a in place.traffic.by_bundle(STABLE, began_ms) if a.is_degraded]
        assert not beside


def users_of_first_step(salt: str, bundle_id: str) -> set[str]:
    """The users that the canary of the first step may answer."""
    share = 0.05
    arms = (
        Arm(STABLE_ARM, STABLE, 1 - 2 * share),
        Arm(BASELINE, STABLE, share),
        Arm(CANARY, bundle_id, share),
    )
    plan = TrafficPlan(1, salt, arms)
    return {f"u{n}" for n in range(N_USERS) if plan.assign(f"u{n}").variant == CANARY}


def test_an_aborted_canary_gets_no_request_after_two_seconds(place: Place) -> None:
    """The operator's word reaches every gateway at its next look at the plan."""
    began_ms = now_ms()
    place.runner.start(EQUAL, place.plan_file)
    wait_for(lambda: bool(place.traffic.by_bundle(EQUAL, began_ms)), "a canary answer", 60)
    rollout = place.runner.abort()
    place.traffic.wait_until(rollout.since_ms + MOST_TO_FOLLOW_MS + 1_000)
    last_ms = max(answered.sent_ms for answered in place.traffic.by_bundle(EQUAL, began_ms))
    assert last_ms <= rollout.since_ms + MOST_TO_FOLLOW_MS


def test_an_equal_bundle_is_promoted_although_its_controller_is_killed(place: Place) -> None:
    """The replica that follows takes the rollout up; undo then leads back."""
    place.runner.start(EQUAL, place.plan_file)
    wait_for(lambda: place.newest.rollout.phase is Phase.CANARY, "the first step", 60)
    lease = place.lease.read()
    assert lease is not None
    os.kill(int(lease.owner.split(":")[1]), signal.SIGKILL)
    wait_for(lambda: place.newest.driver not in {lease.owner, "test"}, "another controller", 120)
    wait_for(lambda: place.newest.rollout.is_closed, "the end of the rollout", 180)
    rollout = place.newest.rollout
    assert rollout.phase is Phase.PROMOTED
    turns = place.writer.turns(rollout.rollout_id)
    assert replay(turns) == ()
    assert place.loop.recommend("u1")["bundle_id"] == EQUAL
    place.runner.undo()
    assert place.loop.recommend("u1")["bundle_id"] == STABLE
