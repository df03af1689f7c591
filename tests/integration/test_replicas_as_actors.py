"""The application `workers` with 1 -> 3 -> 2 replicas under load, on both logs, some killed.

What comes out is compared with a plain computation over the events that were sent.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from brokers.kafka_cluster import KafkaCluster
from cluster.data_facts import worker_facts
from recsys.events import Engagement, Event
from recsys.settings import Settings
from recsys.stores.control.membership import WORKERS, Member, Membership
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.log.open_log import open_log, open_writer_log
from recsys.types import HistoryEvent
from tests.chaos.chaos_events import expected_histories, expected_item_totals
from tests.chaos.chaos_verdict import day_totals
from tests.evidence_by_hand import a_random_log, evidence_by_hand
from tests.evidence_follower import stored
from tests.kafka_server import a_kafka_cluster, a_topic, kafka_event_settings
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake
from train_app.workers import APP_NAME

pytestmark = pytest.mark.integration

N_PARTITIONS = 6
N_USERS = 20
N_EVENTS = 20_000
EVENTS_PER_S = 100
BATCH = 10
WAIT_S = 120.0
DEPLOYMENTS = {"Archiver": "archiver", "FeatureStream": "features", "EvidenceStream": "evidence"}


@pytest.fixture(scope="module")
def local_ray() -> Generator[None]:
    """Ray and Serve without HTTP."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        namespace="serve",
    )
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Generator[KafkaCluster]:
    """One broker."""
    with a_kafka_cluster() as cluster:
        yield cluster


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, local_ray: None
) -> Generator[Settings]:
    """A place with one of the logs, whose replicas notice each other quickly."""
    events: dict[str, object] = {"n_partitions": N_PARTITIONS}
    if request.param == "kafka":
        brokers = request.getfixturevalue("cluster")
        topic = a_topic(brokers, N_PARTITIONS)
        log = kafka_event_settings(brokers, topic, n_partitions=N_PARTITIONS)
        events = log.model_dump(mode="json")
    yield Settings.model_validate(
        {
            "data_dir": tmp_path / "var",
            "events": events | {"negative_kinds": ["dismiss"], "retention_s": 2_000_000_000},
            "features": {"poll_interval_s": 0.05, "history_limit": N_EVENTS},
            "lake": {"commit_every_s": 0.5},
            "attribution": {"window_s": 6 * 3600, "session_gap_s": 1800},
            "workers": {"member_timeout_s": 2.0},
        }
    )
    serve.delete(APP_NAME)


class Load:
    """Appends events as a gateway does, until told to stop."""

    def __init__(self, settings: Settings, events: Sequence[Event]) -> None:
        self._log = open_writer_log(settings, "load")
        self._events = events
        self._stopping = threading.Event()
        self.n_sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def more(self, n: int) -> None:
        """Return when so many more events are in the log."""
        goal = self.n_sent + n
        wait_until(lambda: self.n_sent >= goal)

    def stop(self) -> list[Event]:
        """End after the present batch; everything that was sent."""
        self._stopping.set()
        self._thread.join()
        self._log.close()
        return list(self._events[: self.n_sent])

    def _run(self) -> None:
        while not self._stopping.wait(BATCH / EVENTS_PER_S):
            batch = self._events[self.n_sent : self.n_sent + BATCH]
            self._log.append(batch)
            self.n_sent += len(batch)


def wait_until(holds: Callable[[], bool]) -> None:
    """Return when it holds."""
    give_up_at_s, pause = time.monotonic() + WAIT_S, threading.Event()
    while not holds():
        assert time.monotonic() < give_up_at_s, f"waited for {WAIT_S} s"
        pause.wait(0.05)


def with_replicas(settings: Settings, n: int) -> Settings:
    """The settings with so many replicas of each worker."""
    numbers = {"archiver_replicas": n, "feature_replicas": n, "evidence_replicas": n}
    workers = settings.workers.model_copy(update=numbers)
    return settings.model_copy(update={"workers": workers})


def deploy(settings: Settings, n: int) -> None:
    """Let Serve run so many replicas of each worker; returns when they share the log."""
    application = {
        "name": APP_NAME,
        "route_prefix": None,
        "import_path": "train_app.workers:build",
        "args": {"settings": settings.model_dump(mode="json")},
        # Here, not in the settings: another number is no reason to replace replicas that run.
        "deployments": [{"name": name, "num_replicas": n} for name in DEPLOYMENTS],
    }
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))
    wait_until(lambda: all(len(sharing(settings, worker)) == n for worker in WORKERS))


def sharing(settings: Settings, worker: str) -> list[Member]:
    """The living replicas of a worker where each partition is followed by exactly one of them."""
    now_ms = time.time_ns() // 1_000_000
    with closing(Membership(settings.control_url)) as membership:
        rows = membership.members(worker)
    rows = [row for row in rows if now_ms - row.heartbeat_ms <= 1_500]
    followed = Counter(partition for row in rows for partition in row.partitions)
    return rows if followed == dict.fromkeys(range(N_PARTITIONS), 1) else []


def kill_one_of_each() -> None:
    """SIGKILL the process of one replica of every worker."""
    replicas: dict[str, list[psutil.Process]] = {}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            title = " ".join(process.cmdline())
            for deployment in DEPLOYMENTS:
                if title.startswith("ray::") and deployment in title:
                    replicas.setdefault(deployment, []).append(process)
    for deployment in DEPLOYMENTS:
        assert len(replicas[deployment]) == 3
        replicas[deployment][0].send_signal(signal.SIGKILL)


def await_end(settings: Settings) -> None:
    """Return when features, evidence and lake have taken in the whole log."""
    lake = Lake(settings.lake_location)
    with (
        closing(open_log(settings)) as log,
        closing(open_features(settings)) as features,
        closing(EvidenceReader(settings.evidence_url)) as evidence,
    ):
        ends = log.end_offsets()
        wait_until(lambda: features.offsets() == ends)
        wait_until(lambda: dict(evidence.coverage().offsets) == ends)
        wait_until(lambda: not check_lake(lake, log).lag)


@pytest.mark.parametrize("settings", ["sqlite", "kafka"], indirect=True)
def test_nothing_is_lost_and_nothing_counts_twice(settings: Settings) -> None:
    """One replica, three, one of each killed, two: lake, features and evidence are exact."""
    load = Load(settings, a_random_log(29, N_EVENTS, N_USERS))
    try:
        deploy(settings, 1)
        load.more(200)
        before = {worker: sharing(settings, worker) for worker in WORKERS}
        deploy(settings, 3)
        for worker, (first,) in before.items():
            await_member(settings, worker, first.replica_id)
        load.more(200)
        kill_one_of_each()
        load.more(100)
        deploy(settings, 2)
        load.more(200)
    finally:
        sent = load.stop()
    await_end(settings)
    check_status(with_replicas(settings, 2))
    once = list({event.event_id: event for event in sent}.values())
    assert load.n_sent < N_EVENTS
    assert_lake_is_whole(settings, once)
    assert_features_are_exact(settings, [e for e in once if isinstance(e, Engagement)])
    by_hand = evidence_by_hand(sent)
    found = stored(settings.evidence_url)
    for table, rows in by_hand.items():
        assert found[table] == rows


def await_member(settings: Settings, worker: str, replica_id: str) -> None:
    """A busy machine may keep a heartbeat back; a replica that was replaced has another id."""
    wait_until(lambda: replica_id in {row.replica_id for row in sharing(settings, worker)})


def check_status(settings: Settings) -> None:
    """What `cluster status` says of the workers agrees with what Serve runs."""

    def agrees() -> bool:
        facts = worker_facts(settings, time.time_ns() // 1_000_000)
        deployments = serve.status().applications[APP_NAME].deployments
        return all(
            facts[worker]["n_replicas"] == facts[worker]["n_expected"] == 2
            and deployments[name].replica_states == {"RUNNING": 2}
            and facts[worker]["lag_records"] == 0
            for name, worker in DEPLOYMENTS.items()
        )

    wait_until(agrees)
    facts = worker_facts(settings, time.time_ns() // 1_000_000)
    for found in facts.values():
        assert (found["n_missed"], found["n_bad"], found["problems"]) == (0, 0, [])


def assert_lake_is_whole(settings: Settings, once: Sequence[Event]) -> None:
    """Offsets complete, ids unique, as many rows as there are events."""
    with closing(open_log(settings)) as log:
        report = check_lake(Lake(settings.lake_location), log)
    assert report.problems == []
    assert report.n_lost == 0
    tables = ("engagements", "impressions", "outcomes")
    assert sum(report.tables[name].n_rows for name in tables) == len(once)


def assert_features_are_exact(settings: Settings, once: Sequence[Engagement]) -> None:
    """Histories, versions and the items' counts of the day."""
    with closing(open_feature_writer(settings)) as writer:
        contents = writer.contents()

    def ordered(history: Sequence[HistoryEvent]) -> list[tuple[int, str, str]]:
        return sorted((event.timestamp_ms, event.item_id, event.kind) for event in history)

    expected = expected_histories(once, N_EVENTS)
    assert {user: ordered(state.history) for user, state in contents.states.items()} == {
        user: ordered(history) for user, history in expected.items()
    }
    counted = Counter(event.user_id for event in once)
    assert {user: state.version for user, state in contents.states.items()} == counted
    assert day_totals(contents) == expected_item_totals(once, settings.events.negative_kinds)
