"""The application `workers` on a local Ray: features, lake and evidence follow the log."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psutil
import pytest
import ray
from ray import serve

from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.control.membership import WORKERS, Membership
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.log.event_log import SqliteEventLog
from train_app.lake.lake_tables import Lake
from train_app.workers import APP_NAME, build

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a running application with a folder of its own."""
    found = Settings.model_validate(
        {
            "data_dir": tmp_path_factory.mktemp("var"),
            "lake": {"commit_every_s": 0.5},
            "workers": {"member_timeout_s": 1.0},
        }
    )
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        namespace="serve",
    )
    serve.start(proxy_location="Disabled")
    document = found.model_dump(mode="json")
    serve.run(build({"settings": document}), name=APP_NAME, route_prefix=None)
    yield found
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def log(settings: Settings) -> Iterator[SqliteEventLog]:
    """The application's event log."""
    opened = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    yield opened
    opened.close()


def an_engagement(event_id: str, user_id: str) -> Engagement:
    """A click, now."""
    now_ms = time.time_ns() // 1_000_000
    return Engagement(
        event_id=event_id,
        kind="click",
        user_id=user_id,
        item_id=f"item-{event_id}",
        timestamp_ms=now_ms,
        received_at_ms=now_ms,
        origin="api",
    )


def seconds_until(holds: Callable[[], bool], timeout_s: float) -> float:
    """How long it takes until something holds; fails after the timeout."""
    pause = threading.Event()
    started_s = time.monotonic()
    while not holds():
        assert time.monotonic() - started_s < timeout_s, f"not within {timeout_s} s"
        pause.wait(0.01)
    return time.monotonic() - started_s


def has_history(settings: Settings, user_id: str, n_events: int) -> Callable[[], bool]:
    """Whether the feature store knows so many events of a user."""
    store = SqliteFeatureStore(settings.feature_path)
    return lambda: len(store.read_users([user_id])[0].history) == n_events


def test_an_event_is_in_the_feature_store_within_a_second(
    settings: Settings, log: SqliteEventLog
) -> None:
    """Counted from the moment it is durable."""
    log.append([an_engagement("warm", "somebody")])
    seconds_until(has_history(settings, "somebody", 1), timeout_s=20)
    delays_s = []
    for n in range(5):
        log.append([an_engagement(f"e{n}", "u1")])
        delays_s.append(seconds_until(has_history(settings, "u1", n + 1), timeout_s=10))
    assert sorted(delays_s)[2] < 1.0
    store = SqliteFeatureStore(settings.feature_path)
    seconds_until(lambda: bool(store.popular(10)), timeout_s=10)


def test_the_application_is_healthy_and_has_no_route(settings: Settings) -> None:
    """It serves no HTTP, and its replicas say how far they are and what they follow."""
    status = serve.status().applications[APP_NAME]
    assert status.status == "RUNNING"
    assert sorted(status.deployments) == ["Archiver", "EvidenceStream", "FeatureStream"]
    for deployment in status.deployments:
        handle = serve.get_deployment_handle(deployment, APP_NAME)
        progress = handle.progress.remote().result()
        assert progress["partitions"] == [0, 1, 2, 3]
        assert progress["problem"] == ""
    with closing(Membership(settings.control_url)) as membership:
        assert [member.worker for member in membership.members()] == sorted(WORKERS)


def test_every_worker_takes_in_what_is_new(settings: Settings, log: SqliteEventLog) -> None:
    """Lake and evidence as well, without a training or a verb."""
    log.append([an_engagement(f"all{n}", f"user-{n}") for n in range(50)])
    n_events = sum(log.end_offsets().values())
    lake, evidence = Lake(settings.lake_location), EvidenceReader(settings.evidence_url)

    def n_rows() -> int:
        table = lake.find("engagements")
        return 0 if table is None else len(table.delta.to_pyarrow_table(columns=["event_id"]))

    seconds_until(lambda: n_rows() == n_events, timeout_s=30)
    seconds_until(lambda: sum(evidence.coverage().offsets.values()) == n_events, timeout_s=30)
    assert n_rows() == sum(evidence.coverage().offsets.values()) == n_events
    evidence.close()


def test_after_the_replica_is_killed_nothing_is_lost_or_counted_twice(
    settings: Settings, log: SqliteEventLog
) -> None:
    """Ray Serve starts another one, which goes on where the store stands."""
    log.append([an_engagement(f"before{n}", "u2") for n in range(20)])
    seconds_until(has_history(settings, "u2", 20), timeout_s=20)
    victim = replica_process()
    victim.send_signal(signal.SIGKILL)
    log.append([an_engagement(f"after{n}", "u2") for n in range(20)])
    seconds_until(has_history(settings, "u2", 40), timeout_s=90)
    (state,) = SqliteFeatureStore(settings.feature_path).read_users(["u2"])
    assert state.version == 40
    assert len({event.item_id for event in state.history}) == 40


def replica_process() -> psutil.Process:
    """The process of this test's own feature stream."""
    mine = psutil.Process(os.getpid()).children(recursive=True)
    (found,) = [process for process in mine if "FeatureStream" in " ".join(process.cmdline())]
    return found
