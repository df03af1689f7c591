"""Features and evidence computed anew: equal values, serving goes on, and refusals that say why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recsys.errors import ConfigError, DataError
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES
from recsys.stores.evidence import evidence_tables
from recsys.stores.features.feature_update import FeatureContents
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.log.event_log import SqliteEventLog
from train_app.following.replay_stores import replay
from train_app.following.worker_replica import open_follower
from train_app.importing.import_history import ImportOptions, run_import

pytestmark = pytest.mark.integration

NOW_MS = 1_790_000_000_000


def an_engagement(n: int) -> Engagement:
    """The n-th click."""
    return Engagement(
        event_id=f"e{n}",
        kind="click",
        user_id=f"u{n % 7}",
        item_id=f"i{n % 11}",
        timestamp_ms=NOW_MS + n * 1000,
        received_at_ms=NOW_MS + n * 1000,
        origin="api",
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An own place."""
    return Settings.model_validate({"data_dir": tmp_path / "var", "lake": {"commit_every_s": 0.05}})


@pytest.fixture
def log(settings: Settings) -> Iterator[SqliteEventLog]:
    """A log that every follower has read, but for its last events."""
    opened = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    opened.append([an_engagement(n) for n in range(300)])
    for worker in (ARCHIVER, FEATURES, EVIDENCE):
        drain(settings, worker, opened)
    opened.append([an_engagement(n) for n in range(300, 320)])
    yield opened
    opened.close()


def drain(settings: Settings, worker: str, log: SqliteEventLog) -> None:
    """One follower takes in what is new."""
    partitions = range(settings.events.n_partitions)
    with closing(open_follower(worker, log, settings)) as follower:
        while follower.lag(partitions):
            follower.run_once(partitions)


def contents(settings: Settings) -> FeatureContents:
    """Everything in the feature store."""
    with closing(open_feature_writer(settings)) as writer:
        return writer.contents()


def evidence_rows(settings: Settings) -> dict[str, list[tuple[object, ...]]]:
    """Everything in the evidence, people and salt included."""
    engine = evidence_tables.open_evidence(settings.evidence_url, writes=False)
    shown = (evidence_tables.meta, *evidence_tables.PERSONAL, evidence_tables.hours)
    with engine.begin() as connection:
        rows = {
            table.name: sorted(tuple(row) for row in connection.execute(table.select()))
            for table in shown
        }
    engine.dispose()
    return rows


@pytest.mark.parametrize("from_lake", [False, True])
def test_features_computed_anew_are_those_that_were_followed(
    settings: Settings, log: SqliteEventLog, from_lake: bool
) -> None:
    """A reader that stays open sees the new values; the stream goes on behind them."""
    with (
        closing(open_features(settings)) as reader,
        closing(open_follower(FEATURES, log, settings)) as stream,
    ):
        assert len(reader.read_users(["u1"])[0].history) == 43
        outcome = replay(settings, features=True, evidence=False, from_lake=from_lake)
        assert outcome.document["n_taken"]["features"] == 320
        sort = "imported users and records" if from_lake else "records"
        assert f"features: 320 {sort} taken in, up to offsets 0: " in outcome.text
        replayed = contents(settings)
        assert len(reader.read_users(["u1"])[0].history) == 46
        log.append([an_engagement(400)])
        while stream.lag(range(4)):
            stream.run_once(range(4))
    alone = settings.model_copy(update={"data_dir": settings.data_dir / "alone"})
    drain(alone, FEATURES, log)
    assert contents(settings) == contents(alone)
    assert replayed != contents(settings)
    assert list(settings.data_dir.glob("features.sqlite.re*")) == []


def test_evidence_counted_anew_is_that_which_was_followed(
    settings: Settings, log: SqliteEventLog
) -> None:
    """Row by row: the salt stays, so people keep their hashes."""
    outcome = replay(settings, features=False, evidence=True, from_lake=False)
    assert outcome.document["n_taken"]["evidence"] == 320
    counted_anew = evidence_rows(settings)
    assert counted_anew["evidence_users"]
    drain(settings, EVIDENCE, log)
    assert evidence_rows(settings) == counted_anew


def test_a_log_without_its_beginning_is_refused(settings: Settings, log: SqliteEventLog) -> None:
    """What would be lost is said, and the old values stay."""
    drain(settings, FEATURES, log)
    before = contents(settings)
    partition = max(log.end_offsets().items(), key=lambda entry: entry[1])[0]
    log.trim(partition, 5)
    with pytest.raises(DataError, match=r"begins at offset 5.*--from-lake"):
        replay(settings, features=True, evidence=False, from_lake=False)
    counted = evidence_rows(settings)
    with pytest.raises(DataError, match=r"begins at offset 5.*--from-lake"):
        replay(settings, features=False, evidence=True, from_lake=False)
    assert evidence_rows(settings) == counted
    assert contents(settings) == before
    outcome = replay(settings, features=True, evidence=False, from_lake=True)
    assert outcome.document["n_taken"]["features"] == 320
    assert contents(settings) == before


def test_imported_histories_are_not_dropped_by_a_replay_of_the_log(
    settings: Settings, log: SqliteEventLog, tmp_path: Path
) -> None:
    """They are in the lake alone."""
    source = tmp_path / "history.csv"
    source.write_text(f"user_id,item_id,timestamp\nold,i1,{NOW_MS - 10**9}\n")
    run_import(
        ImportOptions(source=source, format="csv"), settings, lambda stage, done, total: None
    )
    with pytest.raises(DataError, match=r"imported histories.*--from-lake"):
        replay(settings, features=True, evidence=False, from_lake=False)
    replay(settings, features=True, evidence=False, from_lake=True)
    with closing(open_features(settings)) as reader:
        assert [event.item_id for event in reader.read_users(["old"])[0].history] == ["i1"]


def test_a_partition_without_a_record_is_begun_by_a_replay_too(
    settings: Settings, tmp_path: Path
) -> None:
    """Every partition has its offset then, and the report says that the log holds nothing."""
    source = tmp_path / "history.csv"
    source.write_text(f"user_id,item_id,timestamp\nold,i1,{NOW_MS - 10**9}\n")
    run_import(
        ImportOptions(source=source, format="csv"), settings, lambda stage, done, total: None
    )
    outcome = replay(settings, features=True, evidence=False, from_lake=True)
    assert outcome.text == (
        "features: 1 imported users and records taken in, up to no offset of the log yet"
    )
    with closing(open_features(settings)) as reader:
        assert reader.offsets() == dict.fromkeys(range(settings.events.n_partitions), 0)


def test_nothing_to_replay_is_refused(settings: Settings) -> None:
    """With what to say."""
    with pytest.raises(ConfigError, match="--features"):
        replay(settings, features=False, evidence=False, from_lake=False)
