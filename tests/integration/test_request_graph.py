"""The request graph on a real Ray behind HAProxy: events, swaps, broken bundles, dead replicas."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from recsys.bundles.registry import Registry
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import SqliteEventLog
from recsys.traffic import Arm, TrafficPlan
from tests.bundles_for_tests import SALT, all_to, publish_small, put_in_force, small_settings
from tests.graph_server import serving
from train_app.following.features.stream_features import FeatureStream

pytestmark = pytest.mark.integration

REPLICAS = Counter({"gateway": 1, "scorer": 2, "ordering": 1, "shard-000": 1, "shard-001": 1})


@dataclass
class Served:
    """A running graph with two bundles to swap between."""

    settings: Settings
    client: httpx.Client
    bundle_ids: tuple[str, str]

    def recommend(self, user_id: str, k: int = 5) -> httpx.Response:
        return self.client.get("/v1/recommend", params={"user_id": user_id, "k": k})

    def answered_by(self, user_id: str) -> str:
        """The bundle that answers a user, who must be answered."""
        reply = self.recommend(user_id)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["bundle_id"])

    def holders(self, bundle_id: str) -> Counter[str]:
        """Per stage, how many replicas say that they hold the bundle."""
        return Counter(
            row.stage
            for row in ControlReader(self.settings.control_url).readiness()
            if row.bundle_id == bundle_id and row.state == "ready"
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Gateway, two scorers, ordering and two shards, linked, behind HAProxy."""
    settings = small_settings(
        tmp_path_factory.mktemp("graph"),
        scorer_replicas=2,
        # Whatever else this machine does: here only what was killed may be missed.
        stage_timeout_ms=5_000,
        deadline_ms=20_000,
    )
    first, second = (
        publish_small(settings, settings.data_dir / f"staging{seed}", seed=seed).bundle_id
        for seed in (1, 2)
    )
    put_in_force(settings, all_to(first))
    with serving(settings, haproxy=True) as client:
        yield Served(settings, client, (first, second))


def wait_for(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Return when it holds."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline_s, f"{what} did not happen within {timeout_s} s"
        pause.wait(0.05)


@dataclass
class Load:
    """What a few clients that never pause saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)


@contextmanager
def under_load(served: Served, n_clients: int = 4) -> Generator[Load, None, None]:
    """Requests without pause while the body runs."""
    load = Load()
    over = threading.Event()

    def ask(client: int) -> None:
        n = 0
        while not over.is_set():
            reply = served.recommend(f"load{client}-{n % 50}")
            load.statuses[reply.status_code] += 1
            if reply.status_code == 200:
                body = reply.json()
                load.bundles[body["bundle_id"]] += 1
                load.degraded.update(body["degraded"])
            n += 1

    with ThreadPoolExecutor(n_clients) as pool:
        clients = [pool.submit(ask, client) for client in range(n_clients)]
        try:
            yield load
        finally:
            over.set()
        for client in clients:
            client.result()


def test_a_response_has_one_request_id_which_is_that_of_its_body(served: Served) -> None:
    """Serve's header and ours never disagree, whatever the caller sent."""
    given = served.client.post(
        "/v1/recommend", json={"user_id": "u1"}, headers={"x-request-id": "my-id"}
    )
    assert given.headers.get_list("x-request-id") == ["my-id"]
    assert given.json()["request_id"] == "my-id"
    odd = served.client.get(
        "/v1/recommend", params={"user_id": "u1"}, headers={"x-request-id": "not <usable>"}
    )
    assert odd.headers.get_list("x-request-id") == [odd.json()["request_id"]]
    assert odd.json()["request_id"] != "not <usable>"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/recommend", b"{", 400),
        ("POST", "/v1/recommend", b'{"user_id": ""}', 422),
        ("POST", "/v1/recommend", b" " * 70_000, 413),
        ("POST", "/v1/events", b'{"events": []}', 400),
        ("GET", "/nothing", None, 404),
        ("DELETE", "/v1/recommend", None, 405),
        ("GET", "/healthz", None, 200),
        ("GET", "/docs", None, 200),
    ],
)
def test_every_kind_of_request_is_answered_through_the_ingress(
    served: Served, method: str, path: str, body: bytes | None, status: int
) -> None:
    """Problems reach the caller as they were made."""
    reply = served.client.request(method, path, content=body)
    assert reply.status_code == status
    if status >= 400:
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["status"] == status


def test_an_event_changes_the_next_answer_and_a_deleted_item_goes(served: Served) -> None:
    """Log, follower and gateway together: what was clicked is not recommended again."""
    before = served.recommend("newcomer", 8).json()["items"]
    clicked, deleted = before[0]["item_id"], before[1]["item_id"]
    event = {"kind": "click", "user_id": "newcomer", "item_id": clicked}
    assert served.client.post("/v1/events", json={"events": [event]}).status_code == 202
    assert served.client.delete(f"/v1/items/{deleted}").status_code == 202
    log = SqliteEventLog(served.settings.log_path, served.settings.events.n_partitions)
    writer = SqliteFeatureWriter(served.settings.feature_path)
    follower = FeatureStream(log, writer, served.settings)
    while follower.run_once(log.end_offsets()):
        pass
    follower.close()
    log.close()

    def gone() -> bool:
        items = {item["item_id"] for item in served.recommend("newcomer", 200).json()["items"]}
        return clicked not in items and deleted not in items

    wait_for(gone, "the event taking effect", timeout_s=10)


def test_ten_swaps_under_load_fail_no_request(served: Served) -> None:
    """Load beside, then move traffic, then let go."""
    first, second = served.bundle_ids
    with under_load(served) as load:
        for n in range(10):
            here, there = (first, second) if n % 2 == 0 else (second, first)
            put_in_force(served.settings, all_to(here), also_required=(there,))
            wait_for(lambda b=there: served.holders(b) == REPLICAS, f"{there} held by all")
            put_in_force(served.settings, all_to(there))
            wait_for(lambda b=there: served.answered_by("anyone") == b, f"traffic to {there}")
    assert set(load.statuses) == {200}, load.statuses
    assert set(load.bundles) == {first, second}
    assert not load.degraded


def test_a_corrupt_bundle_is_refused_by_name_and_serving_goes_on(served: Served) -> None:
    """Even if a plan already names it."""
    stable = served.recommend("u1").json()["bundle_id"]
    broken = publish_small(served.settings, served.settings.data_dir / "staging3", seed=3).bundle_id
    vectors = (
        Registry(served.settings.registry_location).fetch(
            broken, served.settings.data_dir / "cache"
        )
        / "item_vectors.safetensors"
    )
    vectors.chmod(0o600)
    vectors.write_bytes(vectors.read_bytes()[:-10])
    arms = (Arm("stable", stable, 0.5), Arm("canary", broken, 0.5))
    with under_load(served, n_clients=2) as load:
        put_in_force(served.settings, TrafficPlan(1, SALT, arms))

        def refused() -> bool:
            rows = ControlReader(served.settings.control_url).readiness()
            return {
                row.stage
                for row in rows
                if row.bundle_id == broken
                and row.state == "failed"
                and "item_vectors.safetensors" in row.reason
            } == set(REPLICAS)

        wait_for(refused, "refusal by every stage")
        assert served.client.get("/readyz").status_code == 503
    put_in_force(served.settings, all_to(stable))
    assert set(load.statuses) == {200}
    assert set(load.bundles) == {stable}
    wait_for(lambda: served.client.get("/readyz").status_code == 200, "ready again")


def test_a_killed_shard_lowers_coverage_until_it_is_back(served: Served) -> None:
    """No request fails; Serve starts the replica again, and it loads before it answers."""
    (shard,) = _replicas("Shard1", served)
    with under_load(served, n_clients=2) as load:
        os.kill(shard.pid, signal.SIGKILL)
        wait_for(lambda: served.recommend("u1").json()["coverage"] < 1, "lower coverage", 30)
        wait_for(lambda: served.recommend("u1").json()["coverage"] == 1, "full coverage", 90)
    assert set(load.statuses) == {200}, load.statuses
    assert all(reason.startswith("shard-001: ") for reason in load.degraded)


def test_a_killed_replica_of_two_fails_and_degrades_nothing(served: Served) -> None:
    """Its calls under way are made at the other, also while Serve starts a new one."""
    victim, other = _replicas("Scorer", served)
    with under_load(served) as load:
        wait_for(lambda: sum(load.statuses.values()) > 50, "answers before")
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(lambda: len({*_replicas("Scorer", served)} - {victim, other}) == 1, "a new one")
        n_before = sum(load.statuses.values())
        wait_for(lambda: sum(load.statuses.values()) > n_before + 100, "answers after")
    assert set(load.statuses) == {200}, load.statuses
    assert not load.degraded


def _replicas(deployment: str, served: Served) -> list[psutil.Process]:
    """The processes of a deployment's replicas."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"ServeReplica:recommend:{deployment}" in " ".join(process.info["cmdline"] or ())
        and _is_ours(process, served)
    ]


def _is_ours(process: psutil.Process, served: Served) -> bool:
    """Whether a process descends from this test's own, so that no other Ray is touched."""
    return os.getpid() in {parent.pid for parent in process.parents()}
