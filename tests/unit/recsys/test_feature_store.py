"""The embedded feature store: a missing, damaged or replaced file, and what readers see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from recsys.errors import StoreError
from recsys.events import CatalogueChange
from recsys.stores.feature_store import CatalogueView, SqliteFeatureStore
from recsys.stores.feature_tables import FeatureUpdate, FeatureWriter
from recsys.types import HistoryEvent, UserState


def a_state(user_id: str, version: int = 1) -> UserState:
    """A user with one event."""
    return UserState(user_id, (HistoryEvent(f"i{version}", "click", version),), version)


def write(path: Path, *states: UserState, catalogue: Sequence[CatalogueChange] = ()) -> None:
    """Store these, in one transaction."""
    writer = FeatureWriter(path)
    with writer.transaction():
        writer.apply(FeatureUpdate(states=states, catalogue=tuple(catalogue)))
    writer.close()


def test_a_missing_store_is_empty_until_somebody_makes_it(tmp_path: Path) -> None:
    """Serving starts before the first import, and sees it without a restart."""
    store = SqliteFeatureStore(tmp_path / "features.sqlite")
    assert store.read_users(["u1"]) == [UserState("u1")]
    assert (store.popular(5), store.catalogue(0), store.offsets()) == ([], CatalogueView(0), {})
    assert not (tmp_path / "features.sqlite").exists()
    write(tmp_path / "features.sqlite", a_state("u1"))
    assert store.read_users(["u1"]) == [a_state("u1")]


def test_a_reader_sees_each_commit_at_once_and_nothing_before(tmp_path: Path) -> None:
    """A half-applied batch is never visible."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1"))
    store = SqliteFeatureStore(path)
    writer = FeatureWriter(path)
    with writer.transaction():
        writer.write_users([a_state("u1", 2)])
        assert store.read_users(["u1"]) == [a_state("u1", 1)]
    assert store.read_users(["u1"]) == [a_state("u1", 2)]
    writer.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """Values and offsets are stored together or not at all."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1"))
    writer = FeatureWriter(path)
    with pytest.raises(RuntimeError), writer.transaction():
        writer.apply(FeatureUpdate(states=(a_state("u1", 2),), next_offsets={0: 5}))
        raise RuntimeError
    writer.close()
    store = SqliteFeatureStore(path)
    assert store.read_users(["u1"]) == [a_state("u1")]
    assert store.offsets() == {}


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
    with pytest.raises(StoreError, match=r"features\.sqlite is not an SQLite database; stop"):
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


def test_a_history_that_cannot_be_decoded_names_the_user(tmp_path: Path) -> None:
    """A damaged value is an error, not an empty history."""
    path = tmp_path / "features.sqlite"
    write(path, a_state("u1"))
    writer = FeatureWriter(path)
    writer._connection.execute("UPDATE users SET history = x'c1'")
    writer.close()
    with pytest.raises(StoreError, match="history of user 'u1'"):
        SqliteFeatureStore(path).read_users(["u1"])


def test_imported_popularity_serves_until_there_is_a_live_list(tmp_path: Path) -> None:
    """What was popular years ago gives way to what is popular now."""
    path = tmp_path / "features.sqlite"
    writer = FeatureWriter(path)
    store = SqliteFeatureStore(path)
    with writer.transaction():
        writer.add_imported_counts({"old": 5, "older": 5, "rare": 1})
        writer.write_popular("import", writer.most_imported(2))
        writer.write_popular("live", [])
    assert store.popular(10) == [("old", 5.0), ("older", 5.0)]
    with writer.transaction():
        writer.write_popular("live", [("new", 1)])
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
