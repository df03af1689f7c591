"""The feature store made anew from the lake: byte for byte what following the log made."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NoReturn

import pytest

from recsys.errors import DataError
from recsys.events import Forgotten
from recsys.settings import EventSettings, FeatureSettings, LakeSettings, Settings
from recsys.stores.features import feature_draft
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_file import replace_contents
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import SqliteEventLog
from recsys.types import UserState
from tests.feature_events import NOW_MS, a_random_event, an_engagement
from train_app.following.features import replay_lake
from train_app.following.features.feature_fold import fold_rules
from train_app.following.features.rebuild_features import rebuild_features
from train_app.following.features.replay_lake import find_replay
from train_app.following.features.stream_features import FeatureStream
from train_app.importing.import_history import ImportOptions, run_import
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.archiving.ingest import ingest
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_forgetting import forget_in_lake

pytestmark = pytest.mark.integration


def small_settings(directory: Path, backend: str = "sqlite") -> Settings:
    """Limits that a few hundred events meet."""
    return Settings(
        data_dir=directory,
        events=EventSettings(backend="kafka" if backend == "kafka" else "sqlite"),
        features=FeatureSettings(history_limit=20, popular_limit=10, pair_days=2),
        lake=LakeSettings(commit_records=150),
    )


def import_some(settings: Settings) -> None:
    """A little history from a file, of users the log knows too."""
    rng = random.Random(1)
    rows = [
        f"u{rng.randrange(12)},i{rng.randrange(12)},{(NOW_MS // 1000) - 86_400 * n}"
        for n in range(60)
    ]
    source = settings.data_dir / "history.csv"
    source.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    run_import(ImportOptions(source), settings, lambda stage, done, total: None)


def a_log(settings: Settings, n_events: int = 400) -> SqliteEventLog:
    """Random events; nobody asks to be forgotten, for the lake would then hold less."""
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    rng = random.Random(5)
    events = [a_random_event(n, rng, 10**8) for n in range(n_events)]
    log.append([event for event in events if event.__class__.__name__ != "Forgotten"])
    return log


def archive(log: SqliteEventLog, settings: Settings) -> None:
    """Everything of the log into the lake."""
    lake = Lake(settings.lake_location)
    ingest(log, lake, Archiver(log, lake, settings))


def follow(log: SqliteEventLog, settings: Settings, path: Path) -> int:
    """Follow the log to its end; the records and rows taken in."""
    stream = FeatureStream(log, SqliteFeatureWriter(path), settings)
    n_taken = 0
    while n := stream.run_once(log.end_offsets()):
        n_taken += n
    stream.close()
    return n_taken


def content(path: Path) -> bytes:
    """The canonical form of a store."""
    writer = SqliteFeatureWriter(path)
    contents = writer.contents()
    writer.close()
    return canonical_bytes(contents)


@pytest.mark.parametrize("backend", ["sqlite", "kafka"])
def test_a_rebuilt_store_equals_the_live_one(tmp_path: Path, backend: str) -> None:
    """Histories, windows, pairs, catalogue, offsets and remembered ids; and readers see it."""
    settings = small_settings(tmp_path, backend)
    import_some(settings)
    log = a_log(settings)
    follow(log, settings, settings.feature_path)
    live = content(settings.feature_path)
    reader = SqliteFeatureStore(settings.feature_path)
    lists = reader.popular(10), reader.trending(10)
    archive(log, settings)
    writer = SqliteFeatureWriter(settings.feature_path)
    assert writer.forget_user("u1")
    writer.close()
    assert reader.read_users(["u1"]) == [UserState("u1")]
    rebuilt = rebuild_features(settings.lake_location, settings)
    assert rebuilt.offsets == log.end_offsets()
    assert content(settings.feature_path) == live
    assert reader.read_users(["u1"])[0].history
    assert (reader.popular(10), reader.trending(10)) == lists
    assert follow(log, settings, settings.feature_path) == 0
    assert list(tmp_path.glob("*.rebuild*")) == []
    log.close()


def test_a_lost_store_fills_itself_from_lake_and_log(tmp_path: Path) -> None:
    """Even where the log no longer has its beginning, and the lake not its end."""
    settings = small_settings(tmp_path)
    import_some(settings)
    log = a_log(settings)
    archive(log, settings)
    for partition, end in log.end_offsets().items():
        log.trim(partition, end // 2)
    log.append([an_engagement("i1", NOW_MS + 10**8 + n, f"u{n}") for n in range(20)])
    follow(log, settings, settings.feature_path)
    whole = content(settings.feature_path)
    settings.feature_path.rename(tmp_path / "lost.sqlite")
    assert follow(log, settings, settings.feature_path) > 400
    assert content(settings.feature_path) == whole
    offsets = SqliteFeatureStore(settings.feature_path).offsets()
    assert offsets == log.end_offsets()
    log.close()


def test_an_import_alone_comes_back_too(tmp_path: Path) -> None:
    """A store that was lost before the first event of the log."""
    settings = small_settings(tmp_path)
    import_some(settings)
    imported = content(settings.feature_path)
    settings.feature_path.unlink()
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    follow(log, settings, settings.feature_path)
    lines = [
        line for line in content(settings.feature_path).split(b"\n") if b"partition" not in line
    ]
    assert lines == imported.split(b"\n")
    log.close()


def test_a_second_start_reads_no_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where partitions never had a record."""
    settings = small_settings(tmp_path)
    import_some(settings)
    settings.feature_path.unlink()
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    assert follow(log, settings, settings.feature_path) > 0

    def read_again(*_: object) -> NoReturn:
        raise AssertionError("the imports were read again")

    monkeypatch.setattr(replay_lake, "imported_histories", read_again)
    log.append([an_engagement("i1", NOW_MS, "u1")])
    for _ in range(2):
        follow(log, settings, settings.feature_path)
    assert SqliteFeatureStore(settings.feature_path).offsets() == log.end_offsets()
    log.close()


@pytest.mark.parametrize("is_complete", [False, True])
def test_who_is_forgotten_during_a_fill_stays_forgotten(tmp_path: Path, is_complete: bool) -> None:
    """Whether the lake has carried it out and the log lost the word, or not yet."""
    settings = small_settings(tmp_path)
    import_some(settings)
    settings.feature_path.unlink()
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    writer = SqliteFeatureWriter(settings.feature_path)
    unset = dict.fromkeys(log.end_offsets())
    rules = fold_rules(settings, log_may_repeat=False)
    fill = find_replay(log, settings.lake_location, writer, rules, unset, 10)
    assert fill is not None
    assert next(fill) == 12
    if is_complete:
        # All the traces that a complete forgetting leaves.
        forget_in_lake(Lake(settings.lake_location), "u1", now_ms=NOW_MS)
    else:
        log.append([Forgotten(event_id="word", user_id="u1", timestamp_ms=NOW_MS)])
    list(fill)
    store = SqliteFeatureStore(settings.feature_path)
    gone, other = store.read_users(["u1", "u2"])
    assert gone == UserState("u1")
    assert other.history
    store.close()
    writer.close()
    log.close()


def test_who_is_forgotten_during_a_rebuild_stays_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows of the log are in the lake's older version, and the log has no word of it."""
    settings = small_settings(tmp_path)
    log = a_log(settings)
    archive(log, settings)

    def forget_before(path: Path, by: Path) -> None:
        forget_in_lake(Lake(settings.lake_location), "u1", now_ms=NOW_MS)
        replace_contents(path, by)

    monkeypatch.setattr(feature_draft, "replace_contents", forget_before)
    rebuild_features(settings.lake_location, settings, log=log)
    store = SqliteFeatureStore(settings.feature_path)
    gone, other = store.read_users(["u1", "u2"])
    assert gone == UserState("u1")
    assert other.history
    store.close()
    log.close()


def test_without_a_lake_nothing_is_replaced(tmp_path: Path) -> None:
    """The error says what to do, and the store stays."""
    settings = small_settings(tmp_path)
    log = a_log(settings, 20)
    follow(log, settings, settings.feature_path)
    before = content(settings.feature_path)
    with pytest.raises(DataError, match="ingest"):
        rebuild_features(settings.lake_location, settings)
    assert content(settings.feature_path) == before
    log.close()
