"""The follower of the log and the import into the feature store: once, whatever happens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recsys.errors import StoreError
from recsys.events import CatalogueChange, Engagement
from recsys.settings import FeatureSettings, Settings
from recsys.stores.feature_store import SqliteFeatureStore
from recsys.stores.feature_tables import FeatureWriter
from recsys.types import HistoryEvent
from tests.fakes_event_log import MemoryEventLog
from train_app.following.stream_features import FeatureStream, load_histories

NOW_MS = 1_790_000_000_000
SETTINGS = Settings(features=FeatureSettings(history_limit=20, popular_limit=10))


def an_engagement(n: int, user_id: str = "u1", item_id: str = "i1") -> Engagement:
    """The n-th click."""
    return Engagement(
        event_id=f"e{n}",
        kind="click",
        user_id=user_id,
        item_id=item_id,
        timestamp_ms=NOW_MS + n,
        received_at_ms=NOW_MS + n,
        origin="api",
    )


def drain(stream: FeatureStream) -> int:
    """Turn until nothing is new; the records taken in."""
    taken = 0
    while n := stream.run_once():
        taken += n
    return taken


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of a feature store."""
    writer = FeatureWriter(path)
    tables = ["users", "live_counts", "imported_counts", "popular", "catalogue", "offsets", "meta"]
    rows = {
        table: sorted(writer._connection.execute(f"SELECT * FROM {table}").fetchall())
        for table in tables
    }
    writer.close()
    return rows


def test_an_event_is_in_the_store_after_one_turn(tmp_path: Path) -> None:
    """History, popular list and lag follow the log."""
    log = MemoryEventLog()
    stream = FeatureStream(log, tmp_path / "f.sqlite", SETTINGS)
    store = SqliteFeatureStore(tmp_path / "f.sqlite")
    assert stream.run_once() == 0
    log.append([an_engagement(1), an_engagement(2, item_id="i2")])
    assert stream.lag() == 2
    assert stream.run_once() == 2
    assert stream.lag() == 0
    (state,) = store.read_users(["u1"])
    assert [event.item_id for event in state.history] == ["i1", "i2"]
    assert state.version == 2
    stream.close()


def test_the_popular_list_is_written_at_most_every_second(tmp_path: Path) -> None:
    """And at last even when no further event comes."""
    clock = [0.0]
    log = MemoryEventLog()
    stream = FeatureStream(log, tmp_path / "f.sqlite", SETTINGS, clock_s=lambda: clock[0])
    store = SqliteFeatureStore(tmp_path / "f.sqlite")
    log.append([an_engagement(1)])
    stream.run_once()
    assert store.popular(10) == [("i1", 1.0)]
    log.append([an_engagement(2)])
    stream.run_once()
    assert store.popular(10) == [("i1", 1.0)]
    clock[0] = 1.0
    assert stream.run_once() == 0
    assert store.popular(10) == [("i1", 2.0)]
    stream.close()


def test_catalogue_changes_reach_the_store(tmp_path: Path) -> None:
    """A deleted item is blocked, a put one is listed."""
    log = MemoryEventLog()
    stream = FeatureStream(log, tmp_path / "f.sqlite", SETTINGS)
    put = CatalogueChange(event_id="p", item_id="i1", timestamp_ms=1, title="One")
    delete = CatalogueChange(event_id="d", item_id="i2", timestamp_ms=1, deleted=True)
    log.append([put, delete])
    drain(stream)
    view = SqliteFeatureStore(tmp_path / "f.sqlite").catalogue(0)
    assert view.blocked == {"i2"}
    assert [item.title for item in view.items] == ["One"]
    stream.close()


def test_a_bad_record_is_counted_and_passed_by(tmp_path: Path) -> None:
    """The records behind it are taken in."""
    log = MemoryEventLog(1)
    log.append([an_engagement(1)])
    log.append_raw(0, "bad", b"no event")
    log.append([an_engagement(2)])
    stream = FeatureStream(log, tmp_path / "f.sqlite", SETTINGS)
    assert drain(stream) == 3
    assert stream.n_bad == 1
    (state,) = SqliteFeatureStore(tmp_path / "f.sqlite").read_users(["u1"])
    assert len(state.history) == 2
    stream.close()


def test_two_followers_of_one_store_count_each_record_once(tmp_path: Path) -> None:
    """During an upgrade two clusters may follow for a moment."""
    log = MemoryEventLog()
    streams = [FeatureStream(log, tmp_path / "f.sqlite", SETTINGS) for _ in range(2)]
    turns = random.Random(3)
    for n in range(60):
        log.append([an_engagement(n, f"u{n % 3}")])
        turns.choice(streams).run_once()
    for stream in streams:
        drain(stream)
        drain(stream)
    store = SqliteFeatureStore(tmp_path / "f.sqlite")
    assert [state.version for state in store.read_users(["u0", "u1", "u2"])] == [20, 20, 20]
    for stream in streams:
        stream.close()


def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    """The turn fails whole, and the next one with room takes everything in once."""
    log = MemoryEventLog()
    stream = FeatureStream(log, tmp_path / "f.sqlite", SETTINGS)
    drain(stream)
    connection = stream._writer._connection
    n_pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={n_pages}")
    log.append([an_engagement(n, f"user-{n}" * 20) for n in range(300)])
    with pytest.raises(StoreError, match="disk is full"):
        drain(stream)
    connection.execute("PRAGMA max_page_count=100000")
    assert drain(stream) == 300
    store = SqliteFeatureStore(tmp_path / "f.sqlite")
    states = store.read_users([f"user-{n}" * 20 for n in range(300)])
    assert {state.version for state in states} == {1}
    stream.close()


def test_a_replaced_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Features go on after somebody removed the log, with fewer partitions even."""
    old = MemoryEventLog(4)
    old.append([an_engagement(n, f"u{n}") for n in range(50)])
    stream = FeatureStream(old, tmp_path / "f.sqlite", SETTINGS)
    drain(stream)
    stream.close()
    new = MemoryEventLog(2)
    new.append([an_engagement(n, "newcomer") for n in range(3)])
    stream = FeatureStream(new, tmp_path / "f.sqlite", SETTINGS)
    assert drain(stream) == 3
    assert stream.lag() == 0
    (state,) = SqliteFeatureStore(tmp_path / "f.sqlite").read_users(["newcomer"])
    assert len(state.history) == 3
    stream.close()


def test_an_import_is_idempotent_and_serves_at_once(tmp_path: Path) -> None:
    """The same histories again change no row."""
    histories = [
        (f"u{user}", [HistoryEvent(f"i{n % 7}", "view", 1000 * n) for n in range(user + 30)])
        for user in range(40)
    ]
    first = load_histories(tmp_path / "f.sqlite", histories, SETTINGS)
    assert (first.n_users, first.n_events_added) == (40, 800)
    before = content(tmp_path / "f.sqlite")
    again = load_histories(tmp_path / "f.sqlite", iter(histories), SETTINGS)
    assert (again.n_users, again.n_events_added) == (40, 0)
    assert content(tmp_path / "f.sqlite") == before
    store = SqliteFeatureStore(tmp_path / "f.sqlite")
    assert len(store.popular(10)) == 7
    assert len(store.read_users(["u39"])[0].history) == 20


def test_an_import_beside_a_running_follower_loses_nothing(tmp_path: Path) -> None:
    """Both write one user's history; live popularity wins over the imported one."""
    log = MemoryEventLog()
    stream = FeatureStream(log, tmp_path / "f.sqlite", SETTINGS, clock_s=lambda: 0.0)
    log.append([an_engagement(1, item_id="live")])
    drain(stream)
    old = [HistoryEvent("old", "view", 5), HistoryEvent("bad", "dismiss", 6)]
    load_histories(tmp_path / "f.sqlite", [("u1", old)], SETTINGS)
    log.append([an_engagement(2, item_id="live")])
    drain(stream)
    stream.close()
    store = SqliteFeatureStore(tmp_path / "f.sqlite")
    history = store.read_users(["u1"])[0].history
    assert [event.item_id for event in history] == ["old", "bad", "live", "live"]
    assert [item_id for item_id, _ in store.popular(5)] == ["live"]


def test_an_import_alone_makes_popular_what_was_not_disliked(tmp_path: Path) -> None:
    """Before the first live event, the imported counts are served."""
    histories = [
        ("u1", [HistoryEvent("a", "view", 1), HistoryEvent("bad", "dismiss", 2)]),
        ("u2", [HistoryEvent("a", "view", 1), HistoryEvent("b", "view", 2)]),
    ]
    load_histories(tmp_path / "f.sqlite", histories, SETTINGS)
    assert SqliteFeatureStore(tmp_path / "f.sqlite").popular(5) == [("a", 2.0), ("b", 1.0)]


def test_an_import_of_nothing_is_no_error(tmp_path: Path) -> None:
    """An empty source leaves an empty store."""
    loaded = load_histories(tmp_path / "f.sqlite", [], SETTINGS)
    assert (loaded.n_users, loaded.n_events_added) == (0, 0)
    assert SqliteFeatureStore(tmp_path / "f.sqlite").popular(5) == []
