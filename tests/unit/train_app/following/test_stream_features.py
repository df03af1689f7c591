"""The follower of the log and the import into the feature store: once, whatever happens."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from recsys.errors import StoreError
from recsys.events import CatalogueChange, Engagement, Event
from recsys.settings import EventSettings, FeatureSettings, Settings
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import LogRecord
from recsys.types import HistoryEvent
from tests.fakes_event_log import MemoryEventLog
from train_app.following.features.load_history import HistoryLoad, load_histories
from train_app.following.features.stream_features import FeatureStream

NOW_MS = 1_790_000_000_000
FEATURES = FeatureSettings(history_limit=20, popular_limit=10)


def settings_in(directory: Path) -> Settings:
    """Small limits, and a lake of nothing."""
    return Settings(data_dir=directory, features=FEATURES)


def a_stream(
    log: MemoryEventLog, directory: Path, clock: list[float] | None = None
) -> FeatureStream:
    """A follower of the log into the store of a directory."""
    writer = SqliteFeatureWriter(directory / "f.sqlite")
    if clock is None:
        return FeatureStream(log, writer, settings_in(directory))
    return FeatureStream(log, writer, settings_in(directory), clock_s=lambda: clock[0])


def a_reader(directory: Path) -> SqliteFeatureStore:
    """A reader of that store."""
    return SqliteFeatureStore(directory / "f.sqlite")


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


def drain(stream: FeatureStream, partitions: range = range(4)) -> int:
    """Turn until nothing is new; the records taken in."""
    taken = 0
    while n := stream.run_once(partitions):
        taken += n
    return taken


def content(path: Path) -> bytes:
    """Everything a feature store holds but its lists."""
    writer = SqliteFeatureWriter(path)
    contents = writer.contents()
    writer.close()
    return canonical_bytes(contents)


def load(directory: Path, histories: list[tuple[str, list[HistoryEvent]]]) -> HistoryLoad:
    """Import these histories."""
    writer = SqliteFeatureWriter(directory / "f.sqlite")
    loaded = load_histories(writer, iter(histories), settings_in(directory))
    writer.close()
    return loaded


def test_an_event_is_in_the_store_after_one_turn(tmp_path: Path) -> None:
    """History, popular list and lag follow the log."""
    log = MemoryEventLog()
    stream, store = a_stream(log, tmp_path), a_reader(tmp_path)
    assert stream.run_once(range(4)) == 0
    assert store.offsets() == {0: 0, 1: 0, 2: 0, 3: 0}
    log.append([an_engagement(1), an_engagement(2, item_id="i2")])
    assert stream.lag(range(4)) == 2
    assert stream.run_once(range(4)) == 2
    assert stream.lag(range(4)) == 0
    (state,) = store.read_users(["u1"])
    assert [event.item_id for event in state.history] == ["i1", "i2"]
    assert state.version == 2
    stream.close()


def test_a_stream_takes_only_its_partitions(tmp_path: Path) -> None:
    """The others are for other replicas."""
    log = MemoryEventLog()
    log.append([an_engagement(n, f"u{n}") for n in range(40)])
    stream = a_stream(log, tmp_path)
    ends = log.end_offsets()
    assert drain(stream, range(1, 3)) == ends[1] + ends[2]
    assert a_reader(tmp_path).offsets() == {1: ends[1], 2: ends[2]}
    assert stream.lag(range(4)) == ends[0] + ends[3]
    assert a_reader(tmp_path).popular(5) == []
    stream.close()


def test_the_lists_are_written_at_most_every_second(tmp_path: Path) -> None:
    """And at last even when no further event comes."""
    clock = [0.0]
    log = MemoryEventLog()
    stream, store = a_stream(log, tmp_path, clock), a_reader(tmp_path)
    stream.run_once(range(4))
    log.append([an_engagement(1)])
    clock[0] = 1.0
    stream.run_once(range(4))
    assert store.popular(10) == [("i1", 1.0)]
    log.append([an_engagement(2)])
    stream.run_once(range(4))
    assert store.popular(10) == [("i1", 1.0)]
    clock[0] = 2.0
    assert stream.run_once(range(4)) == 0
    assert store.popular(10) == [("i1", 2.0)]
    assert store.trending(10) == [("i1", 1.0)]
    stream.close()


def test_lists_are_of_all_partitions_whoever_follows_them(tmp_path: Path) -> None:
    """The replica of the lowest partition reads what the others have stored."""
    clock = [0.0]
    log = MemoryEventLog()
    first, second = (a_stream(log, tmp_path, clock) for _ in range(2))
    for n in range(200):
        log.append([an_engagement(n, f"u{n % 40}", f"i{n % 3}")])
        if n % 20 == 19:
            clock[0] += 1.0
            drain(second, range(2, 4))
            drain(first, range(2))
    store = a_reader(tmp_path)
    assert sum(n for _, n in store.popular(10)) == 200
    counts = store.item_counts(["i0", "i1", "none"], NOW_MS + 200)
    assert [entry.counts.positives for entry in counts] == [(67,) * 3, (67,) * 3, (0,) * 3]
    first.close()
    second.close()


def test_items_of_one_path_become_neighbours(tmp_path: Path) -> None:
    """Best first, also after a restart; an item without pairs has none."""
    log = MemoryEventLog()
    paths = [("u1", "ab"), ("u2", "ab"), ("u3", "ac"), ("u4", "d")]
    events = [(user, item) for user, path in paths for item in path]
    log.append([an_engagement(n, user, item) for n, (user, item) in enumerate(events)])
    stream = a_stream(log, tmp_path)
    drain(stream)
    stream.close()
    near_a, near_d, unknown = a_reader(tmp_path).neighbours(["a", "d", "x"], 5)
    assert [item for item, _ in near_a] == ["b", "c"]
    assert 1 > near_a[0][1] > near_a[1][1] > 0
    assert (near_d, unknown) == ([], [])
    assert a_reader(tmp_path).neighbours(["a"], 1) == [near_a[:1]]


def test_neighbours_go_when_their_pairs_expire(tmp_path: Path) -> None:
    """An item that nobody touches for the days of the setting stands alone again."""
    log = MemoryEventLog(1)
    stream, store = a_stream(log, tmp_path), a_reader(tmp_path)
    log.append([an_engagement(1, "u1", "a"), an_engagement(2, "u1", "b")])
    drain(stream, range(1))
    assert store.neighbours(["a"], 5) != [[]]
    later = FEATURES.pair_days * 86_400_000
    log.append([an_engagement(later, "u2", "c"), an_engagement(later + 1, "u2", "d")])
    drain(stream, range(1))
    assert store.neighbours(["a", "b"], 5) == [[], []]
    assert [item for item, _ in store.neighbours(["c"], 5)[0]] == ["d"]
    stream.close()


def test_a_repeated_event_counts_once_where_the_log_may_repeat(tmp_path: Path) -> None:
    """After a restart too; the embedded log never does, and is not asked to remember."""
    log = MemoryEventLog(1)
    log.append([an_engagement(1), an_engagement(2)])
    repeated = log.read(0, 0, 1)[0]
    settings = settings_in(tmp_path).model_copy(update={"events": EventSettings(backend="kafka")})
    for n in range(2):
        stream = FeatureStream(log, SqliteFeatureWriter(tmp_path / "f.sqlite"), settings)
        log.append_raw(0, f"again{n}", repeated.value)
        drain(stream, range(1))
        assert stream.n_repeated == 1
        stream.close()
    assert len(a_reader(tmp_path).read_users(["u1"])[0].history) == 2
    assert b"2,%d,2]" % (NOW_MS + 2) not in content(tmp_path / "f.sqlite")


class TrimmedLog(MemoryEventLog):
    """A log that has lost its beginning."""

    def __init__(self, n_lost: int) -> None:
        super().__init__(1)
        self.n_lost = n_lost

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """From the oldest kept record on."""
        return super().read(partition, max(offset, self.n_lost), limit)

    def begin_offsets(self) -> dict[int, int]:
        """Where it begins now."""
        return {0: self.n_lost}


def test_records_that_are_gone_are_counted_as_missed(tmp_path: Path) -> None:
    """A store that never saw the log starts where the log does, and misses nothing."""
    log = TrimmedLog(0)
    events: list[Event] = [an_engagement(n) for n in range(9)]
    log.append(events[:3])
    stream = a_stream(log, tmp_path)
    assert drain(stream, range(1)) == 3
    log.append(events[3:])
    log.n_lost = 5
    stream.run_once(range(1))
    assert drain(stream, range(1)) == 4
    assert stream.n_missed == 2
    stream.close()
    fresh = FeatureStream(log, SqliteFeatureWriter(tmp_path / "g"), settings_in(tmp_path))
    assert (drain(fresh, range(1)), fresh.n_missed) == (4, 0)
    fresh.close()


def test_a_damaged_store_is_set_aside_and_filled_again(tmp_path: Path) -> None:
    """The turn fails, says so, and the next ones make everything anew from the log."""
    log = MemoryEventLog()
    log.append([an_engagement(n, f"u{n}") for n in range(2000)])
    stream = a_stream(log, tmp_path)
    drain(stream)
    stream.close()
    whole = content(tmp_path / "f.sqlite")
    data = bytearray((tmp_path / "f.sqlite").read_bytes())
    # Its head is whole, so that nobody sees it when the file is opened.
    data[8192 * 15 :] = b"\x5a" * (len(data) - 8192 * 15)
    (tmp_path / "f.sqlite").write_bytes(data)
    stream = a_stream(log, tmp_path)
    log.append([an_engagement(2000 + n, f"u{n}") for n in range(2000)])
    with pytest.raises(StoreError, match="damaged"):
        drain(stream)
    assert drain(stream) == 4000
    stream.close()
    assert len(content(tmp_path / "f.sqlite")) > len(whole)
    assert list(tmp_path.glob("f.sqlite.unusable-*[0-9]"))


def test_a_store_that_was_emptied_is_filled_again(tmp_path: Path) -> None:
    """With the next event of any partition, all of them; as after a database was flushed."""
    log = MemoryEventLog()
    log.append([an_engagement(n, f"u{n}") for n in range(40)])
    stream = a_stream(log, tmp_path)
    drain(stream)
    (tmp_path / "f.sqlite").unlink()
    log.append([an_engagement(40)])
    stream.run_once(range(4))
    assert drain(stream) == 41
    assert a_reader(tmp_path).offsets() == log.end_offsets()
    stream.close()


def test_a_store_of_the_first_layout_is_set_aside_and_filled_again(tmp_path: Path) -> None:
    """An upgrade asks nobody to do anything."""
    old = sqlite3.connect(tmp_path / "f.sqlite")
    old.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    old.execute("INSERT INTO meta VALUES ('layout', 'feature store'), ('layout_version', '1')")
    old.commit()
    old.close()
    log = MemoryEventLog()
    log.append([an_engagement(n) for n in range(3)])
    stream = a_stream(log, tmp_path)
    assert drain(stream) == 3
    stream.close()
    assert len(list(tmp_path.glob("f.sqlite.unusable-*"))) == 1


def test_catalogue_changes_reach_the_store(tmp_path: Path) -> None:
    """A deleted item is blocked, a put one is listed."""
    log = MemoryEventLog()
    stream = a_stream(log, tmp_path)
    put = CatalogueChange(event_id="p", item_id="i1", timestamp_ms=NOW_MS, title="One")
    delete = CatalogueChange(event_id="d", item_id="i2", timestamp_ms=NOW_MS, deleted=True)
    log.append([put, delete])
    drain(stream)
    view = a_reader(tmp_path).catalogue(0)
    assert view.blocked == {"i2"}
    assert [item.title for item in view.items] == ["One"]
    stream.close()


def test_a_bad_record_is_counted_and_passed_by(tmp_path: Path) -> None:
    """The records behind it are taken in."""
    log = MemoryEventLog(1)
    log.append([an_engagement(1)])
    log.append_raw(0, "bad", b"no event")
    log.append([an_engagement(2)])
    stream = a_stream(log, tmp_path)
    assert drain(stream, range(1)) == 3
    assert stream.n_bad == 1
    (state,) = a_reader(tmp_path).read_users(["u1"])
    assert len(state.history) == 2
    stream.close()


def test_two_followers_of_one_store_count_each_record_once(tmp_path: Path) -> None:
    """During an upgrade two clusters may follow for a moment."""
    log = MemoryEventLog()
    streams = [a_stream(log, tmp_path) for _ in range(2)]
    turns = random.Random(3)
    for n in range(60):
        log.append([an_engagement(n, f"u{n % 3}")])
        turns.choice(streams).run_once(range(4))
    for stream in streams:
        drain(stream)
        drain(stream)
    store = a_reader(tmp_path)
    assert [state.version for state in store.read_users(["u0", "u1", "u2"])] == [20, 20, 20]
    for stream in streams:
        stream.close()


def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    """The turn fails whole, and the next one with room takes everything in once."""
    log = MemoryEventLog()
    stream = a_stream(log, tmp_path)
    drain(stream)
    connection = stream._writer._connection
    n_pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={n_pages}")
    log.append([an_engagement(n, f"user-{n}" * 20) for n in range(300)])
    with pytest.raises(StoreError, match="disk is full"):
        drain(stream)
    connection.execute("PRAGMA max_page_count=100000")
    assert drain(stream) == 300
    store = a_reader(tmp_path)
    states = store.read_users([f"user-{n}" * 20 for n in range(300)])
    assert {state.version for state in states} == {1}
    stream.close()


def test_a_log_that_ends_before_what_was_taken_in_is_refused(tmp_path: Path) -> None:
    """Read again from its beginning it would count twice; the store stays as it is."""
    newer = MemoryEventLog(1)
    newer.append([an_engagement(n) for n in range(10)])
    stream = a_stream(newer, tmp_path)
    drain(stream, range(1))
    stream.close()
    before = content(tmp_path / "f.sqlite")
    older = MemoryEventLog(1)
    older.append([an_engagement(n) for n in range(4)])
    stream = a_stream(older, tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"up to offset 10.*ends at 4.*events replay"):
            stream.run_once(range(1))
    assert content(tmp_path / "f.sqlite") == before
    older.append([an_engagement(n) for n in range(4, 12)])
    assert drain(stream, range(1)) == 2
    stream.close()
    assert a_reader(tmp_path).read_users(["u1"])[0].version == 12


def test_ids_are_remembered_where_a_damaged_log_was_set_aside(tmp_path: Path) -> None:
    """Its successor does not know the ids of what was in it."""
    settings = settings_in(tmp_path)
    log = MemoryEventLog(1)
    log.append([an_engagement(1)])
    settings.log_path.with_name(f"{settings.log_path.name}.corrupt-20260101T000000-000").touch()
    stream = a_stream(log, tmp_path)
    drain(stream, range(1))
    log.append_raw(0, "again", log.read(0, 0, 1)[0].value)
    drain(stream, range(1))
    assert stream.n_repeated == 1
    stream.close()


def test_an_import_is_idempotent_and_serves_at_once(tmp_path: Path) -> None:
    """The same histories again change no row."""
    histories = [
        (f"u{user}", [HistoryEvent(f"i{n % 7}", "view", 1000 * n) for n in range(user + 30)])
        for user in range(40)
    ]
    first = load(tmp_path, histories)
    assert (first.n_users, first.n_events_added) == (40, 800)
    before = content(tmp_path / "f.sqlite")
    again = load(tmp_path, histories)
    assert (again.n_users, again.n_events_added) == (40, 0)
    assert content(tmp_path / "f.sqlite") == before
    store = a_reader(tmp_path)
    assert len(store.popular(10)) == 7
    assert len(store.read_users(["u39"])[0].history) == 20


def test_an_import_beside_a_running_follower_loses_nothing(tmp_path: Path) -> None:
    """Both write one user's history; live popularity wins over the imported one."""
    log = MemoryEventLog()
    stream = a_stream(log, tmp_path, [0.0])
    log.append([an_engagement(1, item_id="live")])
    drain(stream)
    old = [HistoryEvent("old", "view", 5), HistoryEvent("bad", "dismiss", 6)]
    load(tmp_path, [("u1", old)])
    log.append([an_engagement(2, item_id="live")])
    drain(stream)
    stream.close()
    store = a_reader(tmp_path)
    history = store.read_users(["u1"])[0].history
    assert [event.item_id for event in history] == ["old", "bad", "live", "live"]
    assert [item_id for item_id, _ in store.popular(5)] == ["live"]


def test_an_import_alone_makes_popular_what_was_not_disliked(tmp_path: Path) -> None:
    """Before the first live event, the imported counts are served."""
    histories = [
        ("u1", [HistoryEvent("a", "view", 1), HistoryEvent("bad", "dismiss", 2)]),
        ("u2", [HistoryEvent("a", "view", 1), HistoryEvent("b", "view", 2)]),
    ]
    load(tmp_path, histories)
    assert a_reader(tmp_path).popular(5) == [("a", 2.0), ("b", 1.0)]


def test_an_import_of_nothing_is_no_error(tmp_path: Path) -> None:
    """An empty source leaves an empty store."""
    loaded = load(tmp_path, [])
    assert (loaded.n_users, loaded.n_events_added) == (0, 0)
    assert a_reader(tmp_path).popular(5) == []
