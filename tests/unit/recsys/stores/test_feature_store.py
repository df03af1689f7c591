"""The embedded feature store: a missing, damaged or replaced file, and what readers see."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.errors import StoreError
from recsys.events import CatalogueChange
from recsys.feature_definitions import NO_COUNTS, ItemCounts
from recsys.stores.features import feature_pairs
from recsys.stores.features.feature_file import replace_contents
from recsys.stores.features.feature_store import CatalogueView, SqliteFeatureStore
from recsys.stores.features.feature_tables import SELECT_DELETED
from recsys.stores.features.feature_update import (
    Expiry,
    FeatureUpdate,
    MergedUsers,
    PairTotals,
    StoredPart,
)
from recsys.stores.features.feature_writer import MAX_DELETED_PER_UPDATE, SqliteFeatureWriter
from recsys.types import HistoryEvent, UserState
from recsys.user_hash import user_hash


def a_state(user_id: str, version: int = 1) -> UserState:
    """A user with one event."""
    return UserState(user_id, (HistoryEvent(f"i{version}", "click", version),), version)


def apply(writer: SqliteFeatureWriter, update: FeatureUpdate) -> None:
    """Store an update, wherever its partition stands."""
    offset = writer.offset(update.partition)
    assert writer.update(update.partition, offset, (), (), lambda _: update) is update


def write(path: Path, *states: UserState, catalogue: Sequence[CatalogueChange] = ()) -> None:
    """Store these, in one transaction."""
    writer = SqliteFeatureWriter(path)
    apply(writer, FeatureUpdate(0, 1, states=states, catalogue=tuple(catalogue)))
    writer.close()


def test_a_missing_store_is_empty_until_somebody_makes_it(tmp_path: Path) -> None:
    """Serving starts before the first import, and sees it without a restart."""
    store = SqliteFeatureStore(tmp_path / "features.sqlite")
    assert store.read_users(["u1"]) == [UserState("u1")]
    assert (store.popular(5), store.catalogue(0), store.offsets()) == ([], CatalogueView(0), {})
    assert (store.trending(5), store.neighbours(["a"], 5)) == ([], [[]])
    assert store.item_counts(["a"], 0) == [ItemCounts("a", NO_COUNTS)]
    assert not (tmp_path / "features.sqlite").exists()
    write(tmp_path / "features.sqlite", a_state("u1"))
    assert store.read_users(["u1"]) == [a_state("u1")]


def test_a_reader_sees_each_commit_at_once_and_nothing_before(tmp_path: Path) -> None:
    """A half-applied batch is never visible."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1"))
    store = SqliteFeatureStore(path)
    writer = SqliteFeatureWriter(path)

    def fold(stored: StoredPart) -> FeatureUpdate:
        assert store.read_users(["u1"]) == [a_state("u1", 1)]
        assert stored.states["u1"] == a_state("u1", 1)
        return FeatureUpdate(0, 2, states=(a_state("u1", 2),))

    assert writer.update(0, 1, ["u1"], [], fold) is not None
    assert store.read_users(["u1"]) == [a_state("u1", 2)]
    writer.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """Values and offsets are stored together or not at all."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1"))
    writer = SqliteFeatureWriter(path)
    # A history that cannot be stored, after the offset was.
    broken = UserState("u1", (HistoryEvent(object(), "click", 1),), 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        writer.update(0, 1, [], [], lambda _: FeatureUpdate(0, 9, states=(broken,)))
    assert writer.offset(0) == 1
    writer.close()
    assert SqliteFeatureStore(path).read_users(["u1"]) == [a_state("u1")]


def test_expired_pairs_leave_bit_by_bit_and_count_no_more_at_once(tmp_path: Path) -> None:
    """A day's end does not stop the stream, and the disk is bounded."""
    writer = SqliteFeatureWriter(tmp_path / "features.sqlite")
    n_pairs = MAX_DELETED_PER_UPDATE + 10
    pairs = {(3, f"i{n}", "x"): 1 for n in range(n_pairs)} | {(3, "x", "x"): n_pairs}
    apply(writer, FeatureUpdate(0, 1, pair_counts=pairs))
    expired = FeatureUpdate(0, 2, expiry=Expiry(pairs_before_day=4))
    left = []
    for next_offset in (2, 3):
        apply(writer, replace(expired, next_offset=next_offset))
        assert writer.contents().pair_counts == {}
        left.append(writer._connection.execute("SELECT count(*) FROM pairs").fetchone()[0])
    assert left == [11, 0]
    assert writer._connection.execute("SELECT count(*) FROM pair_degrees").fetchone()[0] == 0
    writer.close()


def test_buckets_expire_in_their_partition_only(tmp_path: Path) -> None:
    """Another partition may stand at an earlier time."""
    writer = SqliteFeatureWriter(tmp_path / "features.sqlite")
    for partition in (0, 1):
        counts = {(300, 0, "a"): (1, 0), (300, 25_000, "a"): (1, 0), (3600, 0, "a"): (1, 1)}
        apply(writer, FeatureUpdate(partition, 1, item_counts=counts))
    apply(writer, FeatureUpdate(0, 2, expiry=Expiry(buckets_before_ms={300: 25_000})))
    kept = {key for key in writer.contents().item_counts if key[0] == 0}
    assert kept == {(0, (300, 25_000, "a")), (0, (3600, 0, "a"))}
    assert len(writer.contents().item_counts) == 5
    writer.close()


def test_a_forgotten_user_is_gone_at_once(tmp_path: Path) -> None:
    """From the reader's next read on; whether there was one is told."""
    write(tmp_path / "features.sqlite", a_state("u1"), a_state("u2"))
    writer = SqliteFeatureWriter(tmp_path / "features.sqlite")
    assert writer.forget_user("u1")
    assert not writer.forget_user("u1")
    store = SqliteFeatureStore(tmp_path / "features.sqlite")
    assert store.read_users(["u1", "u2"]) == [UserState("u1"), a_state("u2")]
    writer.close()


def test_stale_items_wait_in_order_and_once(tmp_path: Path) -> None:
    """Whoever was touched first is made anew first, with the totals of all partitions."""
    writer = SqliteFeatureWriter(tmp_path / "features.sqlite")
    for partition in (0, 1):
        pairs = {(5, "b", "a"): 2, (5, "a", "b"): 2, (5, "a", "a"): 2, (5, "b", "b"): 2}
        apply(writer, FeatureUpdate(partition, 1, 5 * 86_400_000, pair_counts=pairs))
    told: list[PairTotals] = []

    def rank(totals: PairTotals) -> dict[str, list[tuple[str, float]]]:
        told.append(totals)
        return {item_id: sorted(pairs.items()) for item_id, pairs in totals.pairs.items()}

    assert [writer.refresh_neighbours(1, 5, rank) for _ in range(3)] == [1, 1, 0]
    assert told[0] == PairTotals({"b": {"a": 4}}, {"a": 4, "b": 4})
    store = SqliteFeatureStore(tmp_path / "features.sqlite")
    assert store.neighbours(["a", "b"], 9) == [[("b", 4.0)], [("a", 4.0)]]
    assert feature_pairs.stale_items(writer._connection, 9) == []
    writer.close()


def test_a_store_is_replaced_in_one_step_under_its_readers_and_writers(tmp_path: Path) -> None:
    """What they hold open stays the store, with the new contents."""
    path, new = tmp_path / "features.sqlite", tmp_path / "new.sqlite"
    write(path, a_state("u1", 1), a_state("gone"))
    store, writer = SqliteFeatureStore(path), SqliteFeatureWriter(path)
    assert store.read_users(["u1"]) == [a_state("u1", 1)]
    write(new, a_state("u1", 7))
    replace_contents(path, new)
    assert store.read_users(["u1", "gone"]) == [a_state("u1", 7), UserState("gone")]
    apply(writer, FeatureUpdate(0, 2, states=(a_state("u1", 8),)))
    assert store.read_users(["u1"]) == [a_state("u1", 8)]
    writer.close()


@pytest.mark.parametrize("version", ["1", "99"])
def test_an_older_layout_is_set_aside_and_a_newer_one_refused(
    tmp_path: Path, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file a later release made is not ours to put away."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1"))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = ? WHERE key = 'layout_version'", (version,))
    connection.commit()
    connection.close()
    if version == "99":
        with pytest.raises(StoreError, match="layout version 99"):
            SqliteFeatureWriter(path)
        return
    SqliteFeatureWriter(path).close()
    assert SqliteFeatureStore(path).read_users(["u1"]) == [UserState("u1")]
    assert len(list(tmp_path.glob("features.sqlite.unusable-*"))) == 1
    assert "set aside" in caplog.text


def test_another_program_s_file_is_not_put_away(tmp_path: Path) -> None:
    """A path that names something else is a mistake of the settings."""
    connection = sqlite3.connect(tmp_path / "notes.sqlite")
    connection.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="no feature store"):
        SqliteFeatureWriter(tmp_path / "notes.sqlite")


def test_users_are_read_while_the_catalogue_is(tmp_path: Path) -> None:
    """A scan of the whole catalogue keeps no request waiting."""
    path = tmp_path / "features.sqlite"
    put = CatalogueChange(event_id="p", item_id="i1", timestamp_ms=1, title="One")
    write(path, a_state("u1"), catalogue=[put])
    store = SqliteFeatureStore(path)
    read: list[UserState] = []
    with store._rest._lock:
        thread = threading.Thread(target=lambda: read.extend(store.read_users(["u1"])))
        thread.start()
        thread.join(10)
        assert read == [a_state("u1")]
    assert [item.item_id for item in store.catalogue(0).items] == ["i1"]
    store.close()


def test_a_file_without_the_index_of_deleted_items_gets_it(tmp_path: Path) -> None:
    """A reader does without it until a writer opens the file."""
    path = tmp_path / "features.sqlite"
    deletion = CatalogueChange(event_id="d", item_id="i1", timestamp_ms=1, deleted=True)
    write(path, catalogue=[deletion])
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX deleted_items")
    connection.close()
    assert SqliteFeatureStore(path).catalogue().blocked == {"i1"}
    writer = SqliteFeatureWriter(path)
    plan = f"EXPLAIN QUERY PLAN {SELECT_DELETED}"
    steps = [row[-1] for row in writer._connection.execute(plan, (9,))]
    assert len(steps) == 1
    assert "deleted_items" in steps[0]
    writer.close()


def test_a_store_replaced_under_a_reader_is_read_anew(tmp_path: Path) -> None:
    """A rebuilt store is a new file under the old name."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1", 1))
    store = SqliteFeatureStore(path)
    assert store.read_users(["u1"]) == [a_state("u1", 1)]
    write(tmp_path / "new.sqlite", a_state("u1", 7))
    (tmp_path / "new.sqlite").replace(path)
    assert store.read_users(["u1"]) == [a_state("u1", 7)]
    path.unlink()
    assert store.read_users(["u1"]) == [UserState("u1")]


def test_a_file_that_is_no_database_is_named_with_the_mend(tmp_path: Path) -> None:
    """The error tells the path and what to do."""
    path = tmp_path / "features.sqlite"
    path.write_bytes(b"no database at all " * 50)
    with pytest.raises(StoreError, match=r"features\.sqlite is not an SQLite database; start"):
        SqliteFeatureStore(path).read_users(["u1"])


def test_a_damaged_store_is_an_error_and_heals_when_mended(tmp_path: Path) -> None:
    """The same reader goes on once the file is whole again."""
    path = tmp_path / "features.sqlite"
    write(path, *(a_state(f"u{n}") for n in range(2000)))
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\x5a" * (len(whole) - 8192))
    store = SqliteFeatureStore(path)
    with pytest.raises(StoreError, match="is damaged"):
        store.read_users(["u1"])
    path.write_bytes(whole)
    assert store.read_users(["u1"]) == [a_state("u1")]


def test_a_history_that_cannot_be_decoded_names_the_user_by_hash(tmp_path: Path) -> None:
    """A damaged value is an error, not an empty history."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1"))
    writer = SqliteFeatureWriter(path)
    writer._connection.execute("UPDATE users SET history = x'c1'")
    writer.close()
    with pytest.raises(StoreError, match=f"history of {user_hash('u1')}"):
        SqliteFeatureStore(path).read_users(["u1"])


def test_imported_popularity_serves_until_there_is_a_live_list(tmp_path: Path) -> None:
    """What was popular years ago gives way to what is popular now."""
    path = tmp_path / "features.sqlite"
    writer = SqliteFeatureWriter(path)
    store = SqliteFeatureStore(path)
    writer.merge_users([], lambda _: MergedUsers((), {"old": 5, "older": 5, "rare": 1}))
    writer.write_popular("import", [(i, float(n)) for i, n in writer.most_imported(2)])
    writer.write_popular("live", [])
    assert store.popular(10) == [("old", 5.0), ("older", 5.0)]
    writer.write_popular("live", [("new", 1.0)])
    assert store.popular(10) == [("new", 1.0)]
    writer.close()


def test_the_blocked_items_follow_every_change(tmp_path: Path) -> None:
    """The kept set of deleted items is renewed with the version."""
    path = tmp_path / "features.sqlite"
    store = SqliteFeatureStore(path)
    for n in range(1, 4):
        deletion = CatalogueChange(event_id=f"d{n}", item_id=f"i{n}", timestamp_ms=n, deleted=True)
        write(path, catalogue=[deletion])
        view = store.catalogue(n)
        assert view.version == n
        assert view.blocked == {f"i{m}" for m in range(1, n + 1)}
