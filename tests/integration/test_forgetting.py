"""Forgetting a person over real stores: nothing of the id is left, and nobody else is touched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from recsys.errors import DataError
from recsys.events import (
    CatalogueChange,
    Engagement,
    Event,
    Forgotten,
    Impression,
    Outcome,
    ShownItem,
)
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES, WORKERS
from recsys.stores.evidence import evidence_tables
from recsys.stores.features.open_features import open_features
from recsys.stores.log.event_log import SqliteEventLog
from recsys.stores.log.log_upkeep import VOID
from train_app.following.worker_replica import Worker, open_follower
from train_app.forgetting import forget, forget_user
from train_app.importing.import_history import ImportOptions, run_import
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake
from train_app.lake.upkeep.lake_retention import vacuum_lake

pytestmark = pytest.mark.integration

ALICE = "alice-7f3a-who-wants-to-be-forgotten"
BOB = "bob-who-stays"
NOW_MS = 1_790_000_000_000


def an_engagement(event_id: str, user_id: str, second: int) -> Engagement:
    """A click."""
    time_ms = NOW_MS + second * 1000
    return Engagement(
        event_id=event_id,
        kind="click",
        user_id=user_id,
        item_id=f"item-{event_id}",
        timestamp_ms=time_ms,
        received_at_ms=time_ms,
        origin="api",
        request_id=f"r-{user_id}",
    )


def events_of(user_id: str, n: int = 5) -> list[Event]:
    """A slate, clicks on it, a failed request, and a bad clock."""
    shown = ShownItem(
        item_id="item-0",
        position=0,
        score=0.5,
        propensity=1.0,
        source="towers",
        retrieval_score=0.5,
        retrieval_rank=0,
    )
    slate = Impression(
        event_id=f"m-{user_id[0]}",
        request_id=f"r-{user_id}",
        user_id=user_id,
        timestamp_ms=NOW_MS,
        bundle_id="b1",
        variant="stable",
        slate=(shown,),
    )
    failed = Outcome(
        event_id=f"o-{user_id[0]}",
        request_id=f"f-{user_id}",
        user_id=user_id,
        timestamp_ms=NOW_MS,
        bundle_id="b1",
        variant="stable",
        status=503,
        reason="overloaded",
        latency_ms=3.0,
    )
    clicks = [an_engagement(f"{k}-{user_id[0]}", user_id, k) for k in range(n)]
    future = Engagement(
        event_id=f"x-{user_id[0]}",
        kind="click",
        user_id=user_id,
        item_id="item-x",
        timestamp_ms=NOW_MS + 10**9,
        received_at_ms=NOW_MS,
        origin="api",
    )
    return [slate, *clicks, failed, future]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An own place that keeps nothing old."""
    return Settings.model_validate(
        {"data_dir": tmp_path / "var", "lake": {"retention_days": 0.0, "commit_every_s": 0.05}}
    )


@pytest.fixture
def log(settings: Settings) -> Iterator[SqliteEventLog]:
    """Its log, with an imported history of both and some events of both."""
    source = settings.data_dir / "../history.csv"
    settings.data_dir.mkdir()
    rows = [f"{user},old-{n},{NOW_MS - 10**7 + n},view" for user in (ALICE, BOB) for n in range(3)]
    source.write_text("\n".join(["user_id,item_id,timestamp,kind", *rows]) + "\n")
    run_import(
        ImportOptions(source=source, format="csv"), settings, lambda stage, done, total: None
    )
    opened = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    opened.append([*events_of(ALICE), *events_of(BOB)])
    opened.append([CatalogueChange(event_id="c1", item_id="item-0", timestamp_ms=NOW_MS)])
    yield opened
    opened.close()


def bring_in_everything(settings: Settings, log: SqliteEventLog) -> None:
    """Every follower takes in the whole log."""
    partitions = range(settings.events.n_partitions)
    for worker in WORKERS:
        with closing(open_follower(worker, log, settings)) as follower:
            while follower.run_once(partitions) or follower.lag(partitions):
                pass


def history_of(settings: Settings, user_id: str) -> list[str]:
    """The items in a user's live history."""
    with closing(open_features(settings)) as store:
        (state,) = store.read_users([user_id])
    return [event.item_id for event in state.history]


def lake_rows(settings: Settings) -> dict[str, dict[str | None, int]]:
    """Rows of the newest version by table and user."""
    import duckdb

    found: dict[str, dict[str | None, int]] = {}
    for name in ("engagements", "impressions", "outcomes"):
        table = Lake(settings.lake_location).find(name)
        assert table is not None
        connection = duckdb.connect()
        table.attach(connection, "rows")
        query = "SELECT user_id, count(*) FROM rows GROUP BY ALL"
        found[name] = dict(connection.execute(query).fetchall())
    return found


def personal_rows(settings: Settings, user_id: str) -> int:
    """A person's rows in the evidence."""
    engine = evidence_tables.open_evidence(settings.evidence_url, writes=False)
    with engine.begin() as connection:
        user_hash = evidence_tables.hashed(evidence_tables.read_salt(connection), user_id)
        counts = [
            connection.execute(
                select(func.count()).select_from(table).where(table.c.user_hash == user_hash)
            ).scalar_one()
            for table in evidence_tables.PERSONAL
        ]
    engine.dispose()
    return sum(counts)


def files_naming(settings: Settings, user_id: str) -> list[str]:
    """The files under the data directory that hold the id's bytes."""
    mark = user_id.encode()
    files = (path for path in settings.data_dir.rglob("*") if path.is_file())
    return sorted(
        str(path.relative_to(settings.data_dir)) for path in files if mark in path.read_bytes()
    )


def test_nothing_of_a_forgotten_person_is_left_and_nobody_else_is_touched(
    settings: Settings, log: SqliteEventLog
) -> None:
    """Log, features, evidence and lake; after the vacuum not a byte of the id on the disk."""
    bring_in_everything(settings, log)
    assert len(history_of(settings, ALICE)) == 8
    assert personal_rows(settings, ALICE) > 0
    before = lake_rows(settings)
    assert before["engagements"][ALICE] == 8

    report = forget(settings, ALICE)
    assert report.n_log_records == 8
    assert report.had_features
    assert sum(report.evidence_rows.values()) > 0
    assert report.passed == [FEATURES, EVIDENCE, ARCHIVER]
    assert ALICE not in report.text()

    assert history_of(settings, ALICE) == []
    assert personal_rows(settings, ALICE) == 0
    after = lake_rows(settings)
    assert all(ALICE not in rows for rows in after.values())
    assert [rows[BOB] for rows in after.values()] == [rows[BOB] for rows in before.values()]
    assert len(history_of(settings, BOB)) == 8
    values = [r.value for p in range(settings.events.n_partitions) for r in log.read(p, 0, 99)]
    assert values.count(VOID) == 9
    with closing(SqliteEventLog(settings.log_path, settings.events.n_partitions)) as again:
        assert check_lake(Lake(settings.lake_location), again).problems == []

    vacuum_lake(Lake(settings.lake_location), {}, 0.0)
    assert files_naming(settings, BOB) != []
    assert files_naming(settings, ALICE) == []


def test_a_later_event_of_the_same_id_begins_anew(settings: Settings, log: SqliteEventLog) -> None:
    """Forgetting is no ban; forgetting again forgets the new life too."""
    bring_in_everything(settings, log)
    forget(settings, ALICE)
    log.append([an_engagement("anew", ALICE, 100)])
    bring_in_everything(settings, log)
    assert history_of(settings, ALICE) == ["item-anew"]
    assert lake_rows(settings)["engagements"][ALICE] == 1
    outcome = forget_user(settings, user_id=ALICE)
    assert outcome.document["n_log_records"] == 1
    assert history_of(settings, ALICE) == []
    assert ALICE not in lake_rows(settings)["engagements"]


def test_a_rebuild_brings_nobody_back(settings: Settings, log: SqliteEventLog) -> None:
    """Neither from the log nor from the lake."""
    bring_in_everything(settings, log)
    forget(settings, ALICE)
    for path in settings.data_dir.glob("features.sqlite*"):
        path.unlink()
    for path in settings.data_dir.glob("evidence.sqlite*"):
        path.unlink()
    bring_in_everything(settings, log)
    assert history_of(settings, ALICE) == []
    assert len(history_of(settings, BOB)) == 8
    assert personal_rows(settings, ALICE) == 0


def test_forgetting_completes_what_a_killed_run_left(
    settings: Settings, log: SqliteEventLog
) -> None:
    """The word in the log alone is enough for the followers; the next run does the rest."""
    bring_in_everything(settings, log)
    log.append([Forgotten(event_id="word", user_id=ALICE, timestamp_ms=NOW_MS)])
    bring_in_everything(settings, log)
    assert history_of(settings, ALICE) == []
    report = forget(settings, ALICE)
    assert report.n_log_records == 9
    vacuum_lake(Lake(settings.lake_location), {}, 0.0)
    assert files_naming(settings, ALICE) == []


def test_forgetting_while_workers_run_and_events_come(
    settings: Settings, log: SqliteEventLog
) -> None:
    """The workers go on with everybody else's events, and what comes later is kept."""
    bring_in_everything(settings, log)
    workers = [Worker(settings, worker, f"{worker}-1") for worker in WORKERS]
    stopping = threading.Event()
    n_sent = [0]

    def send() -> None:
        while not stopping.wait(0.002):
            log.append([an_engagement(f"load-{n_sent[0]}", f"user-{n_sent[0] % 50}", n_sent[0])])
            n_sent[0] += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        report = forget(settings, ALICE)
    finally:
        stopping.set()
        sender.join()
        for worker in workers:
            worker.stop()
    assert len(report.remaining) == 1
    assert "older versions of the lake" in report.remaining[0]
    bring_in_everything(settings, log)
    assert history_of(settings, ALICE) == []
    rows = lake_rows(settings)["engagements"]
    assert ALICE not in rows
    load = sum(n for user, n in rows.items() if user is not None and user.startswith("user-"))
    assert load == n_sent[0] > 0


def test_an_id_nobody_can_have_is_refused_before_anything_is_written(
    settings: Settings, log: SqliteEventLog
) -> None:
    """The log has not grown."""
    ends = log.end_offsets()
    for user_id in ("", "x" * 257):
        with pytest.raises(DataError, match="1 to 256 bytes"):
            forget(settings, user_id)
    assert log.end_offsets() == ends
