"""1 -> 3 -> 2 replicas of a worker under load, one of them killed: nothing lost, nothing twice."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from recsys.events import Engagement, Event, Impression, ShownItem
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES, Member, Membership
from recsys.stores.evidence import evidence_tables
from recsys.stores.features.open_features import open_feature_writer
from recsys.stores.log.event_log import SqliteEventLog
from tests.worker_processes import WorkerProcesses
from train_app.following.worker_replica import open_follower
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake

pytestmark = pytest.mark.integration

N_PARTITIONS = 6
WAIT_S = 60.0
NOW_MS = 1_790_000_000_000


def settings_in(directory: Path) -> Settings:
    """A place whose replicas notice each other quickly."""
    return Settings.model_validate(
        {
            "data_dir": directory,
            "events": {"n_partitions": N_PARTITIONS},
            "features": {"poll_interval_s": 0.02},
            "lake": {"commit_every_s": 0.2},
            "workers": {"member_timeout_s": 1.0},
        }
    )


def an_event(n: int, rng: random.Random) -> Event:
    """The n-th event: now and then a slate, mostly clicks, some of them late."""
    user = f"u{rng.randrange(40)}"
    time_ms = NOW_MS + 50 * n - rng.choice([0, 0, 0, 20_000, 4_000_000])
    if n % 10 == 0:
        shown = ShownItem(
            item_id=f"i{rng.randrange(30)}",
            position=0,
            score=0.5,
            propensity=1.0,
            source="towers",
            retrieval_score=0.5,
            retrieval_rank=0,
        )
        return Impression(
            event_id=f"e{n}",
            request_id=f"r{n}",
            user_id=user,
            timestamp_ms=time_ms,
            bundle_id="b1",
            variant="stable",
            slate=(shown,),
        )
    return Engagement(
        event_id=f"e{n}",
        kind=rng.choice(["click", "like", "dismiss"]),
        user_id=user,
        item_id=f"i{rng.randrange(30)}",
        timestamp_ms=time_ms,
        received_at_ms=NOW_MS + 50 * n,
        origin="api",
    )


class Load:
    """Appends events until told to stop, in small batches."""

    def __init__(self, log: SqliteEventLog) -> None:
        self._log = log
        self._rng = random.Random(11)
        self._stopping = threading.Event()
        self.n_sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Return when the last batch is in the log."""
        self._stopping.set()
        self._thread.join()

    def more(self, n: int) -> None:
        """Return when so many more events are in the log."""
        goal = self.n_sent + n
        wait_until(lambda: self.n_sent >= goal)

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            batch = [an_event(self.n_sent + k, self._rng) for k in range(20)]
            self._log.append(batch)
            self.n_sent += len(batch)


def wait_until(holds: Callable[[], bool]) -> None:
    """Return when it holds; fails after a minute."""
    give_up_at_s, pause = time.monotonic() + WAIT_S, threading.Event()
    while not holds():
        assert time.monotonic() < give_up_at_s, "waited for a minute"
        pause.wait(0.05)


def living_rows(settings: Settings, worker: str) -> list[Member]:
    """The rows of replicas that beat within the last second."""
    now_ms = time.time_ns() // 1_000_000
    with closing(Membership(settings.control_url)) as membership:
        rows = membership.members(worker)
    return [row for row in rows if now_ms - row.heartbeat_ms <= 1000]


def is_shared(settings: Settings, worker: str, *replicas: str) -> bool:
    """Whether exactly these replicas live and every partition is followed by exactly one."""
    rows = living_rows(settings, worker)
    followed = Counter(partition for row in rows for partition in row.partitions)
    is_whole = followed == dict.fromkeys(range(N_PARTITIONS), 1)
    return is_whole and sorted(row.replica_id for row in rows) == sorted(replicas)


def drain(settings: Settings, worker: str, log: SqliteEventLog) -> None:
    """One follower takes in what is left."""
    with closing(open_follower(worker, log, settings)) as follower:
        while follower.lag(range(N_PARTITIONS)):
            follower.run_once(range(N_PARTITIONS))


@contextmanager
def three_then_two(directory: Path, worker: str) -> Generator[tuple[Settings, SqliteEventLog, int]]:
    """A place after 1 -> 3 -> 2 replicas have followed a load, with what was sent."""
    settings = settings_in(directory / "var")
    log = SqliteEventLog(settings.log_path, N_PARTITIONS)
    load = Load(log)
    try:
        with WorkerProcesses(settings, worker, directory) as replicas:
            replicas.start("a")
            wait_until(lambda: is_shared(settings, worker, "a"))
            load.more(400)
            replicas.start("b", "c")
            wait_until(lambda: is_shared(settings, worker, "a", "b", "c"))
            load.more(400)
            replicas.kill("a")
            load.more(100)
            wait_until(lambda: is_shared(settings, worker, "b", "c"))
            load.more(400)
            assert "n_bad=0, n_missed=0" in replicas.stop("b")
            load.more(100)
            load.stop()
            wait_until(lambda: is_shared(settings, worker, "c"))
            wait_until(lambda: living_rows(settings, worker)[0].lag_records == 0)
            assert "n_bad=0, n_missed=0" in replicas.stop("c")
            assert living_rows(settings, worker) == []
        drain(settings, worker, log)
        yield settings, log, load.n_sent
    finally:
        load.stop()
        log.close()


def test_live_features_are_those_of_a_single_follower(tmp_path: Path) -> None:
    """Value by value: histories, windows, pairs, catalogue, remembered ids."""
    with three_then_two(tmp_path, FEATURES) as (settings, log, n_sent):
        alone = settings.model_copy(update={"data_dir": tmp_path / "alone"})
        drain(alone, FEATURES, log)
        with closing(open_feature_writer(settings)) as shared:
            found = shared.contents()
        with closing(open_feature_writer(alone)) as single:
            expected = single.contents()
    assert sum(offset for offset, _ in found.partitions.values()) == n_sent
    assert found == expected


def test_the_lake_has_every_event_once(tmp_path: Path) -> None:
    """Offsets complete, ids unique, as `cluster lake check` proves it."""
    with three_then_two(tmp_path, ARCHIVER) as (settings, log, n_sent):
        report = check_lake(Lake(settings.lake_location), log)
    assert report.problems == []
    assert n_sent >= 1400
    assert sum(log_rows(settings).values()) == n_sent


def test_evidence_is_that_of_a_single_follower(tmp_path: Path) -> None:
    """Every sum that names nobody; people are hashed with each store's own salt."""
    with three_then_two(tmp_path, EVIDENCE) as (settings, log, n_sent):
        alone = settings.model_copy(update={"data_dir": tmp_path / "alone"})
        drain(alone, EVIDENCE, log)
        assert evidence_sums(settings) == evidence_sums(alone)
        offsets = evidence_rows(settings, evidence_tables.parts)
    assert sum(row[1] for row in offsets) == n_sent


def log_rows(settings: Settings) -> dict[str, int]:
    """Distinct event ids by table of the lake."""
    import duckdb

    counts: dict[str, int] = {}
    for name in ("engagements", "impressions"):
        table = Lake(settings.lake_location).find(name)
        assert table is not None
        connection = duckdb.connect()
        table.attach(connection, "rows")
        query = "SELECT count(DISTINCT event_id), count(*) FROM rows"
        n_ids, n_rows = connection.execute(query).fetchall()[0]
        assert n_ids == n_rows
        counts[name] = n_ids
    return counts


def evidence_sums(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """The tables that add up people."""
    tables = (evidence_tables.hours, evidence_tables.kinds, evidence_tables.parts)
    return {table.name: evidence_rows(settings, table) for table in tables}


def evidence_rows(settings: Settings, table: Any) -> list[tuple[Any, ...]]:
    """All rows of a table, sorted."""
    engine = evidence_tables.open_evidence(settings.evidence_url, writes=False)
    with engine.begin() as connection:
        rows = sorted(tuple(row) for row in connection.execute(table.select()))
    engine.dispose()
    return rows
